"""Freed memory goes back to the system. In processes of their own, as it is about all that a process has."""

from __future__ import annotations

import subprocess
import sys

from tests.fixtures.wait import HANGS_AFTER_S

FREES = """
import asyncio
from contextlib import suppress
from pathlib import Path
from services.common.malloc import give_back_free_blocks, give_back_large_blocks

def resident_mib():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmRSS")) >> 10

async def main():
    before = resident_mib()
    blocks, kept = [], []
    for _ in range(2048):
        blocks.append(b"x" * 65536)
        kept.append(b"y" * 1024)  # between them, so that the heap has no free end
    full = resident_mib()
    del blocks
    assert full - before > 120, full - before
    assert resident_mib() - before > 100
    giving = asyncio.create_task(give_back_free_blocks())
    while resident_mib() - before > 40:
        await asyncio.sleep(0.01)
    giving.cancel()
    with suppress(asyncio.CancelledError):
        await giving

give_back_large_blocks()
asyncio.run(main())
"""


def test_what_is_free_between_blocks_that_stay_goes_back() -> None:
    subprocess.run([sys.executable, "-c", FREES], check=True, timeout=HANGS_AFTER_S)
