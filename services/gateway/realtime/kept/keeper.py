"""Keeps one session as it changes."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from services.common.errors import Unavailable
from services.gateway import metrics
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.events import (
    ArgumentsDelta,
    AudioDelta,
    Emit,
    Event,
    ItemAdded,
    ItemDeleted,
    ItemTruncated,
    OutputDone,
    OutputStarted,
    ResponseDone,
    SpeechStarted,
    TextDelta,
    TranscriptDone,
)
from services.gateway.realtime.input_buffer import Uncommitted
from services.gateway.realtime.kept.sessions import KeptSession, KeptSessions
from services.gateway.realtime.session_end import SessionEnd

# What changes within this time is written at once.
_EVERY_S = 0.5
# How long a session that ends waits for what is not written yet.
_LAST_WRITE_S = 2.0

logger = logging.getLogger(__name__)


class Keepable(Protocol):
    """A session, as far as it is kept."""

    def kept(self) -> KeptSession: ...

    def uncommitted(self) -> Uncommitted | None:
        """Return the audio that is in no item, where it is to be kept."""
        ...

    def end(self, reason: SessionEnd) -> None: ...


class SessionKeeper:
    """Passes a session's events on to its client, and writes what they say has changed.

    A session whose state can't be written goes on, and so do the tries to write it.
    """

    def __init__(self, sessions: KeptSessions, tenant: str, owner: str, to_client: Emit) -> None:
        """`owner`: who keeps it, new with each connection."""
        self._sessions = sessions
        self._tenant = tenant
        self._to_client = to_client
        self._session: Keepable
        self._owner = owner
        self._has_taken = False
        self._last_spoken = ""
        # Ids of items that are not written as they are, and of those that are written.
        self._changed: set[str] = set()
        self._written: set[str] = set()
        self._has_changed = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._is_taken_over = False

    async def start(self, session: Keepable, *, resumed: bool) -> None:
        """Keep this session from now on, alone. Raise Unavailable where one that was kept can't be taken."""
        self._session = session
        kept = session.kept()
        if resumed:
            await self._take(kept.id)
            self._written.update(kept.item_ids)
        self._work = asyncio.create_task(self._run(), name=f"keep {kept.id}")

    async def emit(self, event: Event) -> None:
        match event:
            case SpeechStarted():
                self.note(self._last_spoken)  # perhaps it was interrupted
            case ItemAdded(item) | OutputStarted(_, item) | OutputDone(_, item) | TextDelta(_, item):
                self.note(item.id)
            case AudioDelta(_, item):
                self._last_spoken = item.id
                self.note(item.id)
            case ArgumentsDelta(_, item):
                self.note(item.id)
            case TranscriptDone(item_id) | ItemTruncated(item_id) | ItemDeleted(item_id):
                self.note(item_id)
            case ResponseDone():
                self.note()  # of what it used
            case _:
                pass
        await self._to_client(event)

    def note(self, item_id: str = "") -> None:
        """Note that an item has changed; "" = only the session itself."""
        if item_id:
            self._changed.add(item_id)
        self._has_changed.set()

    async def close(self) -> None:
        """Write what is not written yet, if that does not take long."""
        work, self._work = self._work, None
        if work is None:
            return
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        held = self._session.uncommitted()
        if (self._has_changed.is_set() or held is not None) and not self._is_taken_over:
            try:
                async with asyncio.timeout(_LAST_WRITE_S):
                    await self._write(held)
            except TimeoutError:
                logger.warning("the last state of a session was not kept in time")

    async def _run(self) -> None:
        while not self._is_taken_over:
            await self._has_changed.wait()
            await self._write()
            await asyncio.sleep(_EVERY_S)

    async def _write(self, held: Uncommitted | None = None) -> None:
        """`held`: at the end, the audio that is in no item. It grows all the time, so it is written but once."""
        self._has_changed.clear()
        changed, self._changed = self._changed, set[str]()
        try:
            await self._write_changed(changed, held)
        except BaseException as error:
            self._changed |= changed
            self._has_changed.set()
            if isinstance(error, asyncio.CancelledError):
                raise
            metrics.KEPT_FAILURES.labels("session").inc()
            if not isinstance(error, Unavailable):
                logger.exception("a session was not kept")

    async def _write_changed(self, changed: set[str], held: Uncommitted | None) -> None:
        sessions, tenant, kept = self._sessions, self._tenant, self._session.kept()
        if not self._has_taken:
            await self._take(kept.id)
        if not await sessions.is_owner(tenant, kept.id, self._owner):
            self._is_taken_over = True
            self._session.end(SessionEnd.TAKEN_OVER)
            return
        for item in kept.items:
            if item.id in changed or item.id not in self._written:
                await self._write_item(kept.id, item)
        for item_id in self._written.difference(kept.item_ids):
            await sessions.delete_item(tenant, kept.id, item_id)
            self._written.discard(item_id)
        if held is not None and not await sessions.put_uncommitted(tenant, kept.id, held):
            metrics.KEPT_FAILURES.labels("session").inc()
        if not await sessions.put(tenant, kept):
            metrics.KEPT_FAILURES.labels("session").inc()

    async def _take(self, session_id: str) -> None:
        await self._sessions.take(self._tenant, session_id, self._owner)
        self._has_taken = True

    async def _write_item(self, session_id: str, item: Item) -> None:
        if await self._sessions.put_item(self._tenant, session_id, item):
            self._written.add(item.id)
        else:
            metrics.KEPT_FAILURES.labels("session").inc()
