"""The time of steps and of whole streams, for short and long speech, with compiler options on and off."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from statistics import median
from typing import Any

import torch

from bench.proof.runner import WrongError
from bench.talker_gpu import measure_streams
from services.talker.checkpoint import SpeechModels
from services.talker.engine import SpeechEngine
from services.talker.kv_cache import blocks_for
from services.talker.memory import MemoryPlan, budget_bytes, plan_memory
from services.talker.sampling import SamplingParams
from services.talker.speaker import Speaker
from services.talker.step import StepInput, StepTimes
from tests.talker.released import SIZES, random_models


def steps(
    device: torch.device, size: str, lengths: Sequence[int], batches: Sequence[int], repeats: int
) -> Mapping[str, Any]:
    """Time steps of these batch sizes, with streams of one length in tokens and of mixed lengths."""
    models, memory = _models(device, size, max(batches))
    speaker = _warm_speaker(models, memory)
    figures: dict[str, dict[str, Any]] = {}
    for name, among in [*((str(length), [length]) for length in lengths), ("mixed", lengths)]:
        figures[name] = {}
        for batch in batches:
            streams = [among[index % len(among)] for index in range(batch)]
            if sum(blocks_for(length + repeats) for length in streams) <= memory.num_blocks:
                figures[name][str(batch)] = _time_step(speaker, streams, repeats)
    return {"slots": memory.slots, "blocks": memory.num_blocks, "tokens": figures}


def streams(
    device: torch.device, size: str, prompts: Sequence[int], counts: Sequence[int], seconds: float
) -> Mapping[str, Any]:
    """Measure the whole engine with this many streams. A long prompt stands for a position late in the speech."""
    models, memory = _models(device, size, max(counts))
    gc.collect()  # frees what another section's streams took
    torch.cuda.empty_cache()
    engine = SpeechEngine(models, memory=memory)
    engine.warm_up()
    engine.start()
    figures: dict[str, Any] = {}
    for prompt in prompts:
        fitting = [count for count in counts if count * blocks_for(prompt + 200) <= memory.num_blocks]
        figures[str(prompt)] = {
            str(count): asyncio.run(measure_streams(engine, count, seconds, prompt)) for count in fitting
        }
    engine.close()
    slow = [
        f"{count} streams after {prompt} tokens"
        for prompt, measured in figures.items()
        for count, figure in measured.items()
        if device.type == "cuda" and figure["slowest_stream_real_time_factor"] > 1
    ]
    return {"slots": memory.slots, "after_prompt_tokens": figures, "slower_than_real_time": slow}


def compiler(device: torch.device, size: str, batches: Sequence[int], repeats: int) -> Mapping[str, Any]:
    """Time steps of a few streams with the compiler options of the environment."""
    models, memory = _models(device, size, max(batches))
    began_s = time.perf_counter()
    speaker = _warm_speaker(models, memory)
    warm_up_s = time.perf_counter() - began_s
    return {
        "warm_up_s": warm_up_s,
        "batch": {str(batch): _time_step(speaker, [320] * batch, repeats) for batch in batches},
    }


@cache
def _models(device: torch.device, size: str, slots: int) -> tuple[SpeechModels, MemoryPlan]:
    """Return models that never draw the end code, and a memory plan for at most `slots` streams."""
    models = random_models(SIZES[size], device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    endless = replace(models, config=replace(models.config, codec_eos_id=-1))
    return endless, plan_memory(models, budget_bytes(models), slots=slots, max_frames=2048)


def _warm_speaker(models: SpeechModels, memory: MemoryPlan) -> Speaker:
    speaker = Speaker(models, memory)
    speaker.warm_up()
    return speaker


def _time_step(speaker: Speaker, lengths: Sequence[int], repeats: int) -> dict[str, float]:
    """Return medians over steps. Each is read before the next one is launched. The cache may hold anything."""
    walls: list[float] = []
    all_times: list[StepTimes] = []
    first_block = 1
    with speaker.cuda_stream.activate(), torch.inference_mode():
        for slot, length in enumerate(lengths, start=1):
            blocks = blocks_for(length + repeats)
            speaker.open(slot, range(first_block, first_block + blocks), SamplingParams(seed=slot))
            first_block += blocks
        for step in range(repeats):
            inputs = [
                StepInput(slot, 872, length + step, float(length + step), 100 + step, SamplingParams(seed=slot))
                for slot, length in enumerate(lengths, start=1)
            ]
            began_s = time.perf_counter()
            frames = speaker.begin(inputs).frames()
            walls.append((time.perf_counter() - began_s) * 1000)
            all_times.append(frames.times)
            if frames.codes.min() < 0 or not all(abs(samples).max() <= 1 for samples in frames.samples):
                raise WrongError(
                    "a step gave negative codes or samples outside of [-1, 1]", {"lengths": list(lengths)[:8]}
                )
    steady = slice(min(3, repeats - 1), None)  # the first steps capture graphs
    return {
        "step_ms": median(walls[steady]),
        "talker_ms": median(times.talker_s for times in all_times[steady]) * 1000,
        "predictor_ms": median(times.predictor_s for times in all_times[steady]) * 1000,
        "codec_ms": median(times.codec_s for times in all_times[steady]) * 1000,
    }
