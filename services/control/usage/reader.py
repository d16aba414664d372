"""Reads usage records from Redis into the database.

A record is acknowledged after its transaction. So a reader that dies, a Redis that forgets what was acknowledged and a
database that goes away may all bring a record again, and the database takes each turn_id once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from services.common.errors import Unavailable
from services.control.metrics import LEDGER_LAG, LEDGER_RECORDS, LEDGER_WAITING
from services.control.usage.ledger import UsageLedger
from services.control.usage.stream import Entry, UsageStream

BATCH = 500
TAKE_OVER_AFTER_S = 30.0
TAKE_OVER_EVERY_S = 10.0
FIRST_BACKOFF_S = 0.1
LAST_BACKOFF_S = 5.0
_SILENT_S = 5.0
"""A round takes a second where nothing happens. After this long without one, the lag is how long that is."""

logger = logging.getLogger(__name__)


class UsageReader:
    """`take_over_after_s`: an entry that a reader was given so long ago, and did not finish, goes to another one."""

    def __init__(
        self, stream: UsageStream, ledger: UsageLedger, *, take_over_after_s: float = TAKE_OVER_AFTER_S
    ) -> None:
        self._stream = stream
        self._ledger = ledger
        self._take_over_after_s = take_over_after_s
        self._takes_over_s = 0.0
        # Entries that the database did not take yet. Not to be read again: Redis may have been emptied since.
        self._held: list[Entry] = []
        # Whether Redis may have given this reader further entries that it did not finish.
        self._has_unfinished = False
        self._oldest_unix_ms = 0
        self._round_s = time.monotonic()
        self.is_away = False
        """Whether Redis or the database was away in the last round."""

    async def run(self) -> None:
        """Read until cancelled."""
        LEDGER_LAG.set_function(self.lag_s)
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                await self._round()
            except Exception as error:
                self._has_unfinished = True
                self._complain(error)
                await asyncio.sleep(backoff_s)
                backoff_s = min(LAST_BACKOFF_S, 2 * backoff_s)
            else:
                if self.is_away:
                    logger.info("usage records are read again")
                self.is_away = False
                backoff_s = FIRST_BACKOFF_S

    async def close(self) -> None:
        """Leave the group, so that nobody has to find out."""
        with contextlib.suppress(Unavailable):
            await self._stream.leave()

    def lag_s(self) -> float:
        """Return how old the oldest record is that the database lacks, as far as is known."""
        silent_s = time.monotonic() - self._round_s
        age_s = time.time() - self._oldest_unix_ms / 1000 if self._oldest_unix_ms else 0.0
        return max(0.0, age_s, silent_s if silent_s > _SILENT_S else 0.0)

    async def _round(self) -> None:
        if not self._held:
            self._held = await self._next()
        if self._held:
            await self._store(self._held)
            stored, self._held = self._held, []
            await self._stream.finish(stored)
        waiting = await self._stream.waiting()
        LEDGER_WAITING.set(waiting.number)
        self._oldest_unix_ms = waiting.oldest_unix_ms
        self._round_s = time.monotonic()

    async def _next(self) -> list[Entry]:
        if self._has_unfinished:
            entries = await self._stream.unfinished(BATCH)
            self._has_unfinished = bool(entries)
            return entries
        if time.monotonic() >= self._takes_over_s:
            entries = await self._stream.take_over(BATCH, self._take_over_after_s)
            if entries:
                return entries
            await self._stream.forget_readers()
            self._takes_over_s = time.monotonic() + min(TAKE_OVER_EVERY_S, self._take_over_after_s)
        return await self._stream.read(BATCH)

    async def _store(self, entries: list[Entry]) -> None:
        added = await self._ledger.add([entry.body for entry in entries if entry.body is not None])
        for result, number in (
            ("new", added.new),
            ("duplicate", added.duplicates),
            ("rejected", added.rejected),
        ):
            LEDGER_RECORDS.labels(result).inc(number)
        if added.rejected:
            logger.error("%d entries are no usage records: see the table usage_rejected", added.rejected)

    def _complain(self, error: Exception) -> None:
        """Log the first failure of a row; one that nobody expects, always."""
        if not isinstance(error, Unavailable):
            logger.error("usage records can't be read", exc_info=error)
        elif not self.is_away:
            logger.warning("usage records wait: %s", error.message)
        self.is_away = True
