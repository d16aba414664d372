"""CPU time, which hardly depends on what else the machine does."""

from __future__ import annotations

import os
from pathlib import Path

from tests.fixtures.processes import descendants

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def used_s(pid: int | None = None) -> float:
    """Return the CPU seconds of a process (None = this one) and its live descendants."""
    first = os.getpid() if pid is None else pid
    return sum(_used_s(each) for each in (first, *descendants(first)))


def _used_s(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    utime, stime = stat.rpartition(")")[2].split()[11:13]
    return (int(utime) + int(stime)) * _TICK_S
