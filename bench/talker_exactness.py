"""Count equal codes by dtype: the talker engine alone, in a batch of 16, and transformers' generate.

    python -m bench.talker_exactness [--frames 60] [--json bench/results/talker_exactness.json]

Runs sixteen sampled requests on the tiny checkpoint. Reports for each pair the number of answers with equal codes to
the end, and the number of frames before each answer's first difference.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import torch
from torch import Tensor

from bench.machine import machine
from bench.report import arguments_parser, report
from services.local.cache import default_cache_dir
from services.local.checkpoint.cached import cached_checkpoint
from services.local.checkpoint.kinds import Kind
from services.talker.checkpoint import load_speech_models
from services.talker.engine import SpeechEngine
from services.talker.memory import budget_bytes, plan_memory
from tests.fixtures.oracle import Oracle, TalkerOptions, ThinkerOptions
from tests.talker.cases import CASES
from tests.talker.speech import request_of, speak

STREAMS = 16
DTYPES = ("float32", "bfloat16")


async def speak_all(engine: SpeechEngine, asked: list[tuple[Any, list[int]]], *, together: bool) -> list[Tensor]:
    calls = [speak(engine, request, token_ids) for request, token_ids in asked]
    spoken = await asyncio.gather(*calls) if together else [await call for call in calls]
    return [each.codes for each in spoken]


def equal_frames(ours: Tensor, theirs: Tensor) -> int:
    """Return the number of frames before the first difference. Both are [frames, codebooks]."""
    count = min(len(ours), len(theirs))
    same = (ours[:count] == theirs[:count]).all(1)
    return count if bool(same.all()) else int(same.int().argmin())


def compare(one: list[Tensor], other: list[Tensor]) -> dict[str, int]:
    pairs = list(zip(one, other, strict=True))
    return {
        "equal_answers": sum(torch.equal(a, b) for a, b in pairs),
        "answers": len(pairs),
        "frames_before_a_difference": sum(equal_frames(a, b) for a, b in pairs),
        "frames": sum(min(len(a), len(b)) for a, b in pairs),
    }


def measure(dtype: str, frames: int) -> dict[str, dict[str, int]]:
    model_dir = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ))
    oracle = Oracle(model_dir, getattr(torch, dtype))
    inputs = oracle.inputs(CASES["text"].messages)
    thinker = ThinkerOptions(max_new_tokens=frames + 10, min_new_tokens=frames + 10)
    options = [TalkerOptions(seed=seed, max_frames=frames) for seed in range(STREAMS)]
    answers = [oracle.generate_from_inputs(inputs, thinker=thinker, talker=each) for each in options]
    models = load_speech_models(model_dir, dtype=dtype)
    engine = SpeechEngine(models, memory=plan_memory(models, budget_bytes(models), slots=STREAMS))
    engine.start()
    asked = [
        (request_of(models.config, answer, each), answer.token_ids)
        for answer, each in zip(answers, options, strict=True)
    ]
    alone = asyncio.run(speak_all(engine, asked, together=False))
    again = asyncio.run(speak_all(engine, asked, together=False))
    batch = asyncio.run(speak_all(engine, asked, together=True))
    engine.close()
    theirs = [answer.codes for answer in answers]
    return {
        "alone_and_alone_again": compare(alone, again),
        "alone_and_in_a_batch": compare(alone, batch),
        "alone_and_transformers": compare(alone, theirs),
    }


def main() -> None:
    parser = arguments_parser("How far codes stay equal, by dtype.")
    parser.add_argument("--frames", type=int, default=60)
    arguments = parser.parse_args()
    figures = {
        "command": f"python -m bench.talker_exactness --frames {arguments.frames}",
        "machine": machine(),
        **{dtype: measure(dtype, arguments.frames) for dtype in DTYPES},
    }
    report(figures, arguments.json)


if __name__ == "__main__":
    main()
