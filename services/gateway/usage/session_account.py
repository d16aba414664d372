"""The place of one realtime session in the limits on sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from services.common.errors import Unavailable
from services.common.limit_kinds import LimitKind
from services.gateway import metrics
from services.gateway.turn.intent import Principal
from services.gateway.usage.books import Books
from services.gateway.usage.limits import Limit
from services.gateway.usage.operations import SoFar
from services.gateway.usage.refusals import limits_away, refusal
from services.gateway.usage.settlement import Settlement

_ONE = {"open_sessions": 1}
_NO_RECORD = SoFar({}, b"")
"""A session uses nothing by itself: its turns have the records."""


class SessionAccount:
    """Kept alive in Redis, and put back there, as the accounts of turns are."""

    def __init__(self, books: Books, place_id: str, limits: Sequence[Limit], instead_of: str) -> None:
        self._books = books
        self._instead_of = instead_of
        self._limits = limits
        self._is_open: Literal["no", "maybe", "yes"] = "maybe"
        self.turn_id = place_id

    @property
    def must_tell(self) -> bool:
        return False

    def so_far(self) -> SoFar:
        return _NO_RECORD

    async def open(self) -> None:
        """Raise RateLimited, or LimitsAway."""
        books = self._books
        try:
            if books.reachable.is_set():
                opened = await books.script.open(
                    self.turn_id,
                    books.gateway_id,
                    self._limits,
                    needs=_ONE,
                    takes=_ONE,
                    picos=0,
                    so_far=_NO_RECORD,
                    ttl_s=books.ttl_s,
                    instead_of=self._instead_of,
                )
                if opened.limit is not None:
                    self._is_open = "no"
                    metrics.LIMIT_REFUSALS.labels(opened.limit.kind, opened.limit.of).inc()
                    raise refusal(opened.limit, opened.wait_ms)
                return self._opened()
        except Unavailable:
            books.note_away()
        else:
            self._is_open = "no"
        if not all(limit.passes_without_redis for limit in self._limits):
            raise limits_away()
        self._opened()

    def _opened(self) -> None:
        self._is_open = "yes"
        self._books.open[self.turn_id] = self

    async def restore(self) -> None:
        """Put the account back into Redis, which has lost it. Raise Unavailable."""
        books = self._books
        await books.script.restore(
            self.turn_id,
            books.gateway_id,
            self._limits,
            held=_ONE,
            sequence=0,
            so_far=_NO_RECORD,
            ttl_s=books.ttl_s,
        )

    async def close(self) -> None:
        if self._is_open != "no":
            is_sure, now_ms = self._is_open == "yes", round(time.time() * 1000)
            settlement = Settlement(self.turn_id, self._limits, _NO_RECORD, is_sure, now_ms)
            await self._books.settle(settlement, has_scarce_place=True)


@asynccontextmanager
async def holding_session(
    books: Books, principal: Principal, place_id: str, instead_of: str = ""
) -> AsyncGenerator[None]:
    """Have a place inside the block. Raise RateLimited, or LimitsAway. See Accounts in turn/ports.py."""
    limits = [
        limit
        for terms in books.terms.of(principal.subjects)
        for limit in terms.limits
        if limit.kind is LimitKind.CONCURRENT_SESSIONS
    ]
    if not limits:
        yield
        return
    account = SessionAccount(books, place_id, limits, instead_of)
    opening = asyncio.create_task(account.open(), name=f"open {place_id}")

    async def close() -> None:
        await asyncio.wait([opening])
        await account.close()

    try:
        # Its calls run to their end, though the session be cancelled meanwhile.
        await asyncio.shield(opening)
        yield
    finally:
        await asyncio.shield(asyncio.create_task(close(), name=f"close {place_id}"))
