"""Send hundreds of hostile requests to a preparer with real decoders, and show how much memory its processes took.

    python -m bench.memory [--requests 300] [--at-once 64] [--memory-mib 4096] [--kinds KIND …]
                           [--json bench/results/memory.json]

Kinds: pictures of many pixels in small files, films of images and of URLs, URLs that tell no length, never end or are
slow, hours of silence, films, large files of no format; a tenth of the requests leave early. Exits with status 1 where
the processes took over 1.2 times the budget beside their caches.
"""

from __future__ import annotations

import asyncio
import os
import sys

from bench.machine import machine
from bench.memory.hostile import Hostile
from bench.memory.run import storm
from bench.report import arguments_parser, report
from services.common.malloc import give_back_free_blocks, give_back_large_blocks
from services.local.cache import default_cache_dir
from services.local.checkpoint import Kind, cached_checkpoint
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.features import FeatureExtractor
from services.preprocess.memory import divide
from tests.preprocess.rig import running_rig

STORE_BYTES, SOUND_BYTES = 256 << 20, 64 << 20


async def main() -> int:
    parser = arguments_parser(__doc__ or "")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--memory-mib", type=int, default=4096)
    parser.add_argument("--decoders", type=int, default=2)
    parser.add_argument("--kinds", nargs="*", default=[], metavar="KIND", help="only these; none = all")
    arguments = parser.parse_args()
    give_back_large_blocks()
    model_dir = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ))
    budgets = divide(arguments.memory_mib << 20)
    pool = DecodePool(arguments.decoders, memory_bytes=2 << 30, timeout_s=120, budgets=budgets)
    async with running_rig(model_dir, FeatureExtractor(model_dir, "auto"), pool) as rig:
        preparer = rig.preparer(budgets=budgets, store_bytes=STORE_BYTES)
        kinds = {name: make for name, make in Hostile(rig.web).kinds.items() if name in (arguments.kinds or (name,))}
        giving = asyncio.create_task(give_back_free_blocks(), name="free blocks")  # as in the service
        seen = await storm(preparer, pool, kinds, requests=arguments.requests, at_once=arguments.at_once)
        giving.cancel()
    most_mib = int(arguments.memory_mib * 1.2) + (STORE_BYTES + SOUND_BYTES >> 20)
    asked = {"requests": arguments.requests, "at_once": arguments.at_once, "budget_mib": arguments.memory_mib}
    report({**asked, **seen, "most_mib": most_mib, "machine": machine()}, arguments.json)
    return int(seen["grown_mib"] > most_mib)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
