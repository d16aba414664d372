"""CPU time, which hardly depends on what else the machine does."""

from __future__ import annotations

import os
import time

from tests.fixtures.processes import descendants


def used_s(pid: int | None = None) -> float:
    """Return the CPU seconds of a process (None = this one) and its live descendants."""
    first = os.getpid() if pid is None else pid
    return sum(_used_s(each) for each in (first, *descendants(first)))


def _used_s(pid: int) -> float:
    # The clock of all threads of a process, those that ended among them (clock_getcpuclockid(3)). The ticks of
    # /proc/…/stat are 10 ms.
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:  # it has ended
        return 0.0
