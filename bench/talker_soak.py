"""Run ten thousand streams of random length through one engine, to see whether its memory stays constant.

    python -m bench.talker_soak [--streams 10000] [--json bench/results/talker_soak.json]

Streams join as others leave, and one in four is cancelled midway. Prints the resident memory after each tenth.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time

import torch

from bench.machine import machine
from bench.report import arguments_parser, report
from services.local.cache import default_cache_dir
from services.local.checkpoint.cached import cached_checkpoint
from services.local.checkpoint.kinds import Kind
from services.talker.checkpoint import load_speech_models
from services.talker.engine import SpeechEngine
from services.talker.memory import budget_bytes, plan_memory
from tests.talker.soak import resident_bytes, soak


async def run(streams: int) -> dict[str, object]:
    models = load_speech_models(cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ)))
    engine = SpeechEngine(models, memory=plan_memory(models, budget_bytes(models), slots=16, max_frames=64))
    engine.start()
    frames, began_s = 0, time.perf_counter()
    resident: list[float] = []
    for part in range(10):
        frames += await soak(engine, streams // 10, seed=part)
        gc.collect()
        resident.append(resident_bytes() / 1e6)
    seconds = time.perf_counter() - began_s
    left = engine.live_streams
    engine.close()
    return {
        "streams": streams,
        "frames": frames,
        "seconds": seconds,
        "resident_mb_after_each_tenth": resident,
        "growth_mb_after_the_first_tenth": resident[-1] - resident[0],
        "streams_left": left,
    }


def main() -> None:
    parser = arguments_parser("Memory over many streams.")
    parser.add_argument("--streams", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {
        "command": f"python -m bench.talker_soak --streams {arguments.streams}",
        "machine": machine(),
        **asyncio.run(run(arguments.streams)),
    }
    report(figures, arguments.json)


if __name__ == "__main__":
    main()
