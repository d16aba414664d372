"""Checks that a device's results equal transformers' and torch's, for any batch and any order of CUDA streams."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from bench.proof.runner import WrongError
from services.local.cache import default_cache_dir
from services.local.checkpoint.cached import cached_checkpoint
from services.local.checkpoint.kinds import Kind
from services.talker.checkpoint import SpeechModels, load_speech_models
from services.talker.engine import SpeechEngine
from services.talker.memory import budget_bytes, plan_memory
from services.talker.noise import GeneratorNoise, PhiloxNoise, noise_at, split_draws
from services.talker.sampling import SamplingParams
from services.talker.speaker import Speaker
from services.talker.step import InFlightStep, StepFrames, StepInput
from tests.fixtures.oracle import Oracle, OracleResult, TalkerOptions, ThinkerOptions
from tests.talker.cases import CASES
from tests.talker.released import SIZES, random_models
from tests.talker.speech import request_of, speak

PARITY_CASES = ("text", "audio", "image", "several turns")
TOKENS = 8
SAMPLES_APART = 1e-4
ORDERED_STREAMS, ORDERED_STEPS = 4, 12
DELAY_CYCLES = 20_000_000  # about 10 ms
_SIZES = (3072, 2048, 2048)


def noise(device: torch.device) -> Mapping[str, Any]:
    """Compare a frame's noise with torch's own generator on the device."""
    seed = 2**61 + 77
    ours = PhiloxNoise(len(_SIZES), 3, device) if device.type == "cuda" else GeneratorNoise(_SIZES)
    ours.start(2, seed)
    generator = torch.Generator(device).manual_seed(seed)
    apart = 0.0
    all_ids = [torch.arange(size, device=device)[None] for size in _SIZES]
    for _ in range(3):
        parts = [torch.empty(1, size, device=device).exponential_(generator=generator)[0] for size in _SIZES]
        draws = split_draws(ours.frame(torch.tensor([2], device=device), [2]), _SIZES)
        drawn = torch.cat([noise_at(draw, ids)[0] for draw, ids in zip(draws, all_ids, strict=True)])
        apart = max(apart, float(((drawn - torch.cat(parts)).abs() / torch.cat(parts).clamp_min(1e-3)).max()))
    figures = {"largest_relative_difference": apart}
    # torch uses CUDA's fast logarithm there; this is its error bound.
    if apart > (1e-3 if device.type == "cuda" else 0):
        raise WrongError("the noise is not torch's", figures)
    return figures


@cache
def _answers(device: torch.device) -> tuple[SpeechModels, list[tuple[str, TalkerOptions, OracleResult]]]:
    """Return the tiny checkpoint's models in float32, and transformers' answer to each case on the device."""
    torch.backends.cudnn.allow_tf32 = False
    folder = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ))
    oracle = Oracle(folder, device=str(device))
    thinker = ThinkerOptions(max_new_tokens=TOKENS, min_new_tokens=TOKENS)
    asked = [(case, TalkerOptions(seed=seed)) for seed, case in enumerate(PARITY_CASES)]
    answers = [
        (case, options, oracle.generate(CASES[case].messages, CASES[case].media, thinker=thinker, talker=options))
        for case, options in asked
    ]
    return load_speech_models(folder, device=str(device)), answers


def parity(device: torch.device) -> Mapping[str, Any]:
    """Compare four cases in float32, one by one, with transformers' generate."""
    return {"cases": _compare(device, together=False, steps_ahead=None)}


def batching(device: torch.device) -> Mapping[str, Any]:
    """Compare the same cases in one batch, without a step ahead and with one."""
    return {f"steps_ahead_{ahead}": _compare(device, together=True, steps_ahead=ahead) for ahead in (0, 1)}


def _compare(device: torch.device, *, together: bool, steps_ahead: int | None) -> dict[str, Any]:
    models, answers = _answers(device)
    memory = plan_memory(models, budget_bytes(models), slots=len(answers), max_frames=200)
    engine = SpeechEngine(models, memory=memory, steps_ahead=steps_ahead)
    engine.start()

    async def speak_all() -> list[Any]:
        calls = [
            speak(engine, request_of(models.config, answer, options), answer.token_ids)
            for _, options, answer in answers
        ]
        return list(await asyncio.gather(*calls)) if together else [await call for call in calls]

    spoken = asyncio.run(speak_all())
    engine.close()
    figures: dict[str, Any] = {}
    wrong: list[str] = []
    for (case, _, answer), ours in zip(answers, spoken, strict=True):
        same_codes = ours.codes.tolist() == answer.codes.tolist()
        apart = float((ours.samples - answer.samples).abs().max()) if same_codes else float("inf")
        figures[case] = {"frames": len(answer.codes), "same_codes": same_codes, "samples_apart": apart}
        if not same_codes or apart > SAMPLES_APART:
            wrong.append(case)
    if wrong:
        raise WrongError(f"not as transformers: {', '.join(wrong)}", figures)
    return figures


def ordering(device: torch.device) -> Mapping[str, Any]:
    """Delay the talker's CUDA stream, then the codec's, with a kernel that only waits. The results must not change."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    models = random_models(SIZES["small"], device, dtype)
    runs = {delayed: _ordered_run(models, delayed) for delayed in ("none", "talker", "codec")}
    figures = {
        name: {
            "same_codes": all(np.array_equal(a.codes, b.codes) for a, b in zip(run, runs["none"], strict=True)),
            "same_samples": all(
                np.array_equal(one, other)
                for a, b in zip(run, runs["none"], strict=True)
                for one, other in zip(a.samples, b.samples, strict=True)
            ),
        }
        for name, run in runs.items()
    }
    if not all(all(same.values()) for same in figures.values()):
        raise WrongError("what a step gives depends on how fast its streams are", figures)
    return figures


def _ordered_run(models: SpeechModels, delayed: str) -> list[StepFrames]:
    """Run steps of the same streams. Each is launched before the last one is read, as the engine does on a GPU."""
    memory = plan_memory(models, budget_bytes(models), slots=ORDERED_STREAMS, max_frames=64)
    speaker = Speaker(models, memory)
    read: list[StepFrames] = []
    with speaker.cuda_stream.activate(), torch.inference_mode():
        for slot in range(1, ORDERED_STREAMS + 1):
            speaker.open(slot, [slot], SamplingParams(seed=slot))
        in_flight = deque[InFlightStep]()
        for frame in range(ORDERED_STEPS):
            if delayed == "talker":
                _delay(models.device)
            elif delayed == "codec":
                with speaker.parts.codec_stream.ordered_after_current():
                    _delay(models.device)
            inputs = [
                StepInput(slot, 872, frame, float(frame), frame, SamplingParams(seed=slot))
                for slot in range(1, ORDERED_STREAMS + 1)
            ]
            in_flight.append(speaker.begin(inputs))
            if len(in_flight) > 1:
                read.append(in_flight.popleft().frames())
        read.append(in_flight.popleft().frames())
    return read


def _delay(device: torch.device) -> None:
    """Launch a kernel that only waits in the current CUDA stream. On a CPU, do nothing."""
    if device.type == "cuda":
        torch.cuda._sleep(DELAY_CYCLES)  # pyright: ignore[reportPrivateUsage]
