"""Measure what the check that speech follows its text takes of the talker's engine thread.

    python -m bench.derailment [--rounds 9] [--json bench/results/derailment.json]

Processor time of handing a frame to its stream, in µs, without and with the check: for `ordinary` codes, and for
`suspect` ones, which repeat for most of the check's limit again and again. Medians over rounds of 4,000 frames, about
the longest answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from statistics import median

import numpy as np
import torch

from bench.machine import machine
from bench.report import arguments_parser, report
from services.local.cache import default_cache_dir
from services.local.checkpoint.cached import cached_checkpoint
from services.local.checkpoint.kinds import Kind
from services.talker.check_rules import CheckRules
from services.talker.checkpoint import SpeechModels, load_speech_models
from services.talker.conditioning import read_prompt
from services.talker.derailment import CheckLimits
from services.talker.engine import SpeechEngine
from services.talker.memory import plan_memory
from services.talker.sampling import SamplingParams
from services.talker.stream import SpeechChunk, SpeechRequest

FRAMES = 4000


def chunks_of(first_codes: list[int]) -> list[SpeechChunk]:
    noise = np.random.default_rng(1)
    samples = (noise.standard_normal(1920) * 0.1).astype(np.float32)
    codes = noise.integers(0, 2048, (len(first_codes), 1, 16))
    codes[:, 0, 0] = first_codes
    return [SpeechChunk(index, codes[index], 1920 * index, samples, index) for index in range(len(first_codes))]


def speech() -> dict[str, list[SpeechChunk]]:
    draw = random.Random(1)
    ordinary = [draw.randrange(2048) for _ in range(FRAMES)]
    suspect = [code for at in range(0, FRAMES, 50) for code in [ordinary[at]] * 40 + ordinary[at : at + 10]]
    return {"ordinary": chunks_of(ordinary), "suspect": chunks_of(suspect)}


def frame_us(engine: SpeechEngine, models: SpeechModels, chunks: list[SpeechChunk]) -> float:
    config = models.config
    ids = [config.im_start_id, config.user_id, config.assistant_id, config.im_start_id, config.assistant_id, 5]
    prompt = read_prompt(config, ids, image_grids=(), video_grids=(), hidden_states=None, voice="")
    stream = engine.submit(SpeechRequest(prompt, SamplingParams(0), FRAMES, torch.zeros(0, 16, dtype=torch.int64)))
    stream.feed([5] * FRAMES, is_last=True)
    began_s = time.thread_time()
    for chunk in chunks:
        if (why := stream.put(chunk)) is not None:
            raise RuntimeError(f"this is no ordinary speech: {why}")
    took_s = time.thread_time() - began_s
    stream.cancel()
    return 1e6 * took_s / len(chunks)


async def measure(models: SpeechModels, rounds: int) -> dict[str, dict[str, float]]:
    plan = plan_memory(models, 60_000_000, slots=2, max_frames=40)
    rules = CheckRules(CheckLimits(), retries=2)
    engines = {name: SpeechEngine(models, memory=plan, check=check) for name, check in (("off", None), ("on", rules))}
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for kind, chunks in speech().items():
            for name, engine in engines.items():
                found.setdefault(kind, {}).setdefault(name, []).append(frame_us(engine, models, chunks))
    return {kind: {name: round(median(many), 2) for name, many in of.items()} for kind, of in found.items()}


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    models = load_speech_models(cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ)))
    frame = asyncio.run(measure(models, given.rounds))
    report({"machine": machine(), "frame_us": frame}, given.json)


if __name__ == "__main__":
    main()
