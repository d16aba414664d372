"""Prices. A price is never changed: a later one supersedes it, and records name those that they were made with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import select

from services.common.errors import BadInput, Conflict
from services.control.store.database import Database
from services.control.store.models import Price
from services.control.tenancy import ids
from services.control.tenancy.audit import Actor, record, utc_now

PriceKind = Literal[
    "requests",
    "prompt_text_tokens",
    "prompt_audio_tokens",
    "prompt_image_tokens",
    "prompt_video_tokens",
    "cached_tokens",
    "completion_text_tokens",
    "reasoning_tokens",
    "completion_audio_tokens",
    "audio_in_ms",
    "audio_out_ms",
    "media_bytes",
]
"""What can have a price: requests, and the fields of Amounts (usage.proto)."""


class Prices:
    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    async def add(
        self, actor: Actor, model: str, kind: PriceKind, micros_per_million: int, from_at: datetime | None
    ) -> tuple[Price, bool]:
        """Add what `kind` costs from `from_at` on, None = from now on. Return the price, and whether it is new.

        `model` "" = all models without a price of their own. Raise BadInput for a time that has passed: its turns were
        paid already. Raise Conflict where another price begins at the same moment.
        """
        async with self._database.write() as write:
            now = self._now()
            # Gateways know times in milliseconds.
            begins = from_at or now
            begins -= timedelta(microseconds=begins.microsecond % 1000)
            same = (Price.model == model) & (Price.kind == kind) & (Price.from_at == begins)
            found = await write.session.scalar(select(Price).where(same))
            if found is not None:
                if found.micros_per_million != micros_per_million:
                    raise Conflict("Another price begins at that time. A price can't be changed.", param="from_at")
                return found, False
            if from_at is not None and from_at < now:
                raise BadInput("A price can't begin in the past. Give a later time, or none.", param="from_at")
            made = Price(
                id=ids.new_id(ids.PRICE),
                model=model,
                kind=kind,
                micros_per_million=micros_per_million,
                from_at=begins,
                created_at=now,
                version=write.next_version(),
            )
            write.session.add(made)
            record(
                write.session, actor, "price.add", made.id, now,
                model=model, kind=kind, micros_per_million=micros_per_million, from_at=begins.isoformat(),
            )  # fmt: skip
        return made, True

    async def list(
        self, after: str | None, limit: int, model: str | None = None, kind: PriceKind | None = None
    ) -> tuple[Sequence[Price], bool]:
        """Return prices by the age of their rows, and whether there are more behind them."""
        query = select(Price).order_by(Price.id).limit(limit + 1)
        if after is not None:
            query = query.where(Price.id > after)
        if model is not None:
            query = query.where(Price.model == model)
        if kind is not None:
            query = query.where(Price.kind == kind)
        async with self._database.read() as session:
            rows = (await session.scalars(query)).all()
        return rows[:limit], len(rows) > limit
