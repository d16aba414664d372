"""When a refused request is sent again: where the server asks for it, and soon."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

BUSY = frozenset({429, 503})
LONGEST_WAIT_S = 60.0
"""A server that asks for more than this is not waited for."""


def retry_delay_s(status: int, headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the server asks to wait before the same request; None where it shall not be sent again.

    Headers are read as OpenAI's clients do: `retry-after-ms` counts before `retry-after`, which holds seconds or a
    date.
    """
    if status not in BUSY or headers.get("x-should-retry") == "false":
        return None
    delay_s = _number(headers.get("retry-after-ms", ""), 1000.0)
    if delay_s is None:
        delay_s = _number(headers.get("retry-after", ""), 1.0)
    if delay_s is None:
        delay_s = _until(headers.get("retry-after", ""))
    return delay_s if delay_s is not None and 0 <= delay_s <= LONGEST_WAIT_S else None


def _number(text: str, per_second: float) -> float | None:
    try:
        return float(text) / per_second
    except ValueError:
        return None


def _until(date: str) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except ValueError:
        return None
