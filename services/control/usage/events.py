"""Sends a CloudEvent for each usage record, at least once, in the order of the records.

See the CloudEvents specification 1.0.2, its JSON format, and its HTTP binding.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

import httpx

from services.common.errors import Unavailable
from services.control.metrics import EVENTS, EVENTS_WAITING
from services.control.store.models import UsageRow
from services.control.usage.cursor import SentCursor
from services.control.usage.records import AMOUNTS

TYPE = "antiphon.usage.turn"
SOURCE = "/antiphon/usage"
SINGLE = "application/cloudevents+json; charset=utf-8"
BATCH = "application/cloudevents-batch+json; charset=utf-8"
TIMEOUT_S = 10.0
LEASE_S = 30.0
"""Longer than a request takes: a replica that sends stays the one that does."""
LOOK_S = 1.0
FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 60.0

logger = logging.getLogger(__name__)


class RefusedError(Exception):
    """The receiver did not take the events. The message says why, without its body."""


class EventSender:
    """`batch`: events of one request; 1 = each alone, in the structured mode."""

    def __init__(
        self, cursor: SentCursor, added: asyncio.Event, url: str, token: str, batch: int, *, look_s: float = LOOK_S
    ) -> None:
        self._cursor = cursor
        self._added = added
        self._url = url
        self._batch = batch
        self._look_s = look_s
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(headers=headers, timeout=TIMEOUT_S, follow_redirects=False)
        self._fails = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(Unavailable):
            await self._cursor.release()
        await self._http.aclose()

    async def run(self) -> None:
        """Send until cancelled."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                sent = await self._round()
            except Exception as error:
                self._complain(error)
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1))
                backoff_s = min(LAST_BACKOFF_S, 2 * backoff_s)
                continue
            if sent and self._fails:
                logger.info("usage events are sent again")
                self._fails = False
            backoff_s = FIRST_BACKOFF_S
            if not sent:
                self._added.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._look_s):
                        await self._added.wait()

    async def _round(self) -> bool:
        """Send one request. Return whether there was anything to send, and this replica may send it."""
        EVENTS_WAITING.set(await self._cursor.waiting())
        rows = await self._cursor.next(self._batch)
        if not rows or not await self._cursor.hold():
            return False
        # Those that were read before the lease was ours may have been sent since.
        rows = await self._cursor.next(self._batch)
        if not rows:
            return False
        try:
            await self._post(rows)
        except RefusedError:
            EVENTS.labels("failed").inc(len(rows))
            raise
        EVENTS.labels("sent").inc(len(rows))
        await self._cursor.sent(rows[-1].seq)
        return True

    def _complain(self, error: Exception) -> None:
        """Log the first failure of a row; one that nobody expects, always."""
        if not isinstance(error, RefusedError | Unavailable):
            logger.error("usage events can't be sent", exc_info=error)
        elif not self._fails:
            logger.warning("usage events wait: %s", error)
        self._fails = True

    async def _post(self, rows: Sequence[UsageRow]) -> None:
        events = [event_of(row) for row in rows]
        body, kind = (events[0], SINGLE) if self._batch == 1 else (events, BATCH)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._http.post(self._url, content=json.dumps(body), headers={"content-type": kind})
        except (httpx.HTTPError, TimeoutError) as error:
            raise RefusedError(f"the receiver does not answer ({type(error).__name__})") from None
        if not answer.is_success:
            raise RefusedError(f"the receiver answered with status {answer.status_code}")


def event_of(row: UsageRow) -> dict[str, Any]:
    """Return the CloudEvent of a record. Its id is the turn's: a receiver that knows it has the event already."""
    return {
        "specversion": "1.0",
        "id": row.turn_id,
        "source": SOURCE,
        "type": TYPE,
        "subject": row.project_id or row.tenant,
        "time": _iso(row.ended_at),
        "datacontenttype": "application/json",
        "data": {
            "turn_id": row.turn_id,
            "organisation_id": row.organisation_id,
            "project_id": row.project_id,
            "tenant": row.tenant,
            "key_id": row.key_id,
            "model": row.model,
            "kind": row.kind,
            "began_at": _iso(row.began_at),
            "ended_at": _iso(row.ended_at),
            "outcome": row.outcome,
            "limit": row.limit_kind,
            "amounts": {name: getattr(row, name) for name in AMOUNTS},
            "attempts": row.attempts,
            "cost_micros": row.cost_micros,
            "price_ids": row.price_ids,
            "gateway": row.gateway,
            "derailment": row.derailment,
            "spoken_again": row.spoken_again,
        },
    }


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
