"""Requests whose media take long give their slot back meanwhile, so that text and small media pass them by."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from services.preprocess.preparation import Preparation

# The others wait with their slot. What their files take is bounded by the memory budget.
MOST_REQUESTS = 64
SLOW_FETCH_S = 1.0


class WaitingRoom:
    """Holds at most `most` requests without a slot."""

    def __init__(self, most: int = MOST_REQUESTS, *, slow_fetch_s: float = SLOW_FETCH_S) -> None:
        self._most = most
        self._slow_fetch_s = slow_fetch_s
        self._inside: set[str] = set()

    def enter(self, preparation: Preparation) -> None:
        """Free the request's slot where there is room. Idempotent."""
        if preparation.free_slot is None or len(self._inside) >= self._most:
            return
        self._inside.add(preparation.request_id)
        free_slot, preparation.free_slot = preparation.free_slot, None
        free_slot()

    def leave(self, preparation: Preparation) -> None:
        self._inside.discard(preparation.request_id)

    @contextmanager
    def during_fetch(self, preparation: Preparation) -> Generator[None]:
        """Free the request's slot where the block takes long."""
        timer = asyncio.get_running_loop().call_later(self._slow_fetch_s, self.enter, preparation)
        try:
            yield
        finally:
            timer.cancel()
