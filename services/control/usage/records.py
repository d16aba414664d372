"""Reads serialized UsageRecords, and checks that the database can hold them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import DecodeError

from antiphon.v1 import usage_pb2

AMOUNTS = tuple(field.name for field in usage_pb2.Amounts.DESCRIPTOR.fields)
"""Names of Amounts' fields: columns of records and sums."""
MAX_AMOUNT = 10**15
"""Of one record. Sums of many still fit into 64 bits."""
MAX_TEXT_CHARS = 255
MAX_PRICES = 64
_LAST_UNIX_MS = 32_503_680_000_000  # the year 3000
_TEXTS = (
    "turn_id", "organisation_id", "project_id", "tenant", "key_id", "model", "kind", "outcome", "limit", "gateway",
    "derailment",
)  # fmt: skip


class BadRecordError(ValueError):
    """What came is no usage record. The message says why."""


def row_of(body: bytes) -> dict[str, Any]:
    """Return the columns of `usage_records`, all but `seq`. Raise BadRecordError."""
    try:
        record = usage_pb2.UsageRecord.FromString(body)
    except DecodeError:
        raise BadRecordError("it is no UsageRecord") from None
    texts = {name: str(getattr(record, name)) for name in _TEXTS}
    if not record.turn_id:
        raise BadRecordError("turn_id is empty")
    for name, text in [*texts.items(), *(("price_ids", id) for id in record.price_ids)]:
        if len(text) > MAX_TEXT_CHARS or "\x00" in text:
            raise BadRecordError(f"{name} is longer than {MAX_TEXT_CHARS} characters, or holds a null character")
    if len(record.price_ids) > MAX_PRICES:
        raise BadRecordError(f"price_ids has more than {MAX_PRICES} items")
    amounts = {name: int(getattr(record.amounts, name)) for name in AMOUNTS} | {"cost_micros": record.cost_micros}
    for name, amount in amounts.items():
        if amount > MAX_AMOUNT:
            raise BadRecordError(f"{name} is larger than {MAX_AMOUNT}")
    texts["limit_kind"] = texts.pop("limit")
    return {
        **texts,
        **amounts,
        "began_at": _time("began_unix_ms", record.began_unix_ms),
        "ended_at": _time("ended_unix_ms", record.ended_unix_ms),
        "attempts": record.attempts,
        "price_ids": list(record.price_ids),
        "spoken_again": record.spoken_again,
    }


def _time(name: str, unix_ms: int) -> datetime:
    if not 0 < unix_ms < _LAST_UNIX_MS:
        raise BadRecordError(f"{name} is missing, or no time")
    return datetime.fromtimestamp(unix_ms / 1000, UTC)
