"""Runs all stages in their order, each in a process of its own: `python -m training.mind`. Stopped, it goes on.

The speech, both towers and the thinker with imagined media do not need each other and run at once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

TOGETHER = (
    ("speech",),
    ("vision_tower", "--steps", "2000", "--tokens", "400"),
    ("audio_tower", "--steps", "3500"),
    ("thinker", "--media", "imagined", "--steps", "3000"),
)
IN_ORDER = (
    ("bank",),
    ("thinker", "--media", "bank", "--steps", "2500", "--rate", "1e-3"),
    ("thinker", "--media", "bank", "--captioner", "--steps", "300", "--rate", "5e-4"),
    ("joint", "--steps", "800"),
    *(("export", kind) for kind in ("instruct", "thinking", "captioner")),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--one-by-one", action="store_true", help="on one core")
    given = options.parse_args()
    if given.one_by_one:
        for stage in TOGETHER:
            _ended(_start(stage), stage)
    else:
        for process, stage in [(_start(stage), stage) for stage in TOGETHER]:
            _ended(process, stage)
    for stage in IN_ORDER:
        _ended(_start(stage), stage)


def _start(stage: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", f"training.mind.{stage[0]}", *stage[1:]])


def _ended(process: subprocess.Popen[bytes], stage: Sequence[str]) -> None:
    if process.wait():
        raise SystemExit(f"training.mind.{stage[0]} ended with {process.returncode}. Run again to go on.")


if __name__ == "__main__":
    main()
