"""Calls that a worker ends so that they go on elsewhere.

A call's task is cancelled, as where its caller has left, so that it frees what it holds. Then `CallInterceptor` tells
the caller the code MOVED in place of CANCELLED.
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakSet

from services.common.errors import MOVED, Unavailable

_moved: WeakSet[asyncio.Task[Any]] = WeakSet()


def move(call: asyncio.Task[Any]) -> None:
    """End a call's task; its caller is told to go on elsewhere. A second time does not disturb its cleanup."""
    if call not in _moved:
        _moved.add(call)
        call.cancel()


def moved_error() -> Unavailable | None:
    """Return what the caller of the current task's call is told where it was moved; None where it was not."""
    task = asyncio.current_task()
    if task is None or task not in _moved:
        return None
    _moved.discard(task)
    task.uncancel()
    return Unavailable("This worker is leaving: go on with another.", code=MOVED)
