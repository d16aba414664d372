"""Requests whose media take long give their slot back meanwhile, so that text and small media pass them by."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from services.common.shared_places import leaves_room
from services.preprocess.preparation import Preparation

# The others wait with their slot. What their files take is bounded by the memory budget.
MOST_REQUESTS = 64
SLOW_FETCH_S = 1.0


class WaitingRoom:
    """Holds at most `most` requests without a slot, and of one tenant as many as leave room for others."""

    def __init__(self, most: int = MOST_REQUESTS, *, slow_fetch_s: float = SLOW_FETCH_S) -> None:
        self._most = most
        self._slow_fetch_s = slow_fetch_s
        # The tenant of each request inside.
        self._inside: dict[str, str] = {}

    def enter(self, preparation: Preparation) -> None:
        """Free the request's slot where there is room for its tenant. Idempotent."""
        if preparation.free_slot is None or not self._has_room(preparation.tenant):
            return
        self._inside[preparation.request_id] = preparation.tenant
        free_slot, preparation.free_slot = preparation.free_slot, None
        free_slot()

    def _has_room(self, tenant: str) -> bool:
        has = sum(inside == tenant for inside in self._inside.values())
        return leaves_room(has, len(self._inside), self._most)

    def leave(self, preparation: Preparation) -> None:
        self._inside.pop(preparation.request_id, None)

    @contextmanager
    def during_fetch(self, preparation: Preparation) -> Generator[None]:
        """Free the request's slot where the block takes long."""
        timer = asyncio.get_running_loop().call_later(self._slow_fetch_s, self.enter, preparation)
        try:
            yield
        finally:
            timer.cancel()
