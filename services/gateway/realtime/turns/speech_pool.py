"""The processes in which sessions' audio is heard.

In threads of the gateway it would wait for the interpreter, which the event loop holds most of the time when there are
many sessions: with 64 sessions on two cores, an interruption was heard 0.3 s late.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from itertools import count
from time import monotonic

from services.gateway import metrics
from services.gateway.realtime.turns.endpointer import HOP_BYTES
from services.gateway.realtime.turns.hearing_process import HearingProcess

_MOST_PROCESSES = 4
_SESSIONS_A_PROCESS = 64
"""That all processes have before there is another one: each has a copy of the model, and packages."""


class Hearing:
    """Hears one session. It waits for each piece of its audio before it gives the next one, so that at most one piece
    of each session is with the process."""

    def __init__(self, process: HearingProcess, number: int) -> None:
        self._process = process
        self._number = number
        self._rest = b""

    async def hear(self, pcm: bytes | bytearray | memoryview) -> list[float]:
        """Return the probability of speech of each hop that ends within these samples: 24 kHz, mono, 16 bits. Raise
        Unavailable."""
        heard = self._rest + pcm
        whole = len(heard) // HOP_BYTES * HOP_BYTES
        self._rest = heard[whole:]
        if not whole:
            return []
        began_s = monotonic()
        probabilities = await self._process.ask(self._number, memoryview(heard)[:whole])
        metrics.REALTIME_DETECTION.observe(monotonic() - began_s)
        return probabilities


class SpeechPool:
    """Hears for all sessions of the gateway."""

    def __init__(self) -> None:
        self._most = min(len(os.sched_getaffinity(0)), _MOST_PROCESSES)
        # Sessions of each.
        self._processes: dict[HearingProcess, int] = {}
        self._numbers = count(1)

    def hearing(self) -> Hearing:
        """Return what hears one more session. Its process starts, if it is the first."""
        process = min(self._processes, key=self._processes.__getitem__, default=None)
        is_full = process is None or self._processes[process] >= _SESSIONS_A_PROCESS
        if process is None or (is_full and len(self._processes) < self._most):
            process = HearingProcess()
            self._processes[process] = 0
        process.start()
        self._processes[process] += 1
        number = next(self._numbers)
        hearing = Hearing(process, number)
        weakref.finalize(hearing, self._end, process, number).atexit = False
        return hearing

    def _end(self, process: HearingProcess, number: int) -> None:
        self._processes[process] -= 1
        process.forget(number)

    async def close(self) -> None:
        """End the processes. The sessions must have ended before."""
        await asyncio.gather(*(process.close() for process in self._processes))
