"""Client events as they come: JSON objects as text."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_core import from_json

from services.common.errors import BadInput
from services.gateway.http.chat.outline import outline_of

# Larger events are parsed in a thread, so that the event loop goes on.
_SMALL_CHARS = 1 << 16
_SMALL_BYTES = 1 << 16


async def json_event(text: str | None, max_text_bytes: int) -> dict[str, Any]:
    """Return the event as JSON. `text`: None = it is binary. Raise BadInput, or TooLarge where it has too many
    values."""
    if text is None:
        raise BadInput("The event is binary. Send a JSON object as text.", code="invalid_json")
    if len(text) <= _SMALL_CHARS:
        return _parsed(text, max_text_bytes)
    return await asyncio.to_thread(_parsed, text, max_text_bytes)


def _parsed(text: str, max_text_bytes: int) -> dict[str, Any]:
    encoded = text.encode()
    if len(encoded) > _SMALL_BYTES:
        outline_of(encoded, max_text_bytes)
    try:
        raw: object = from_json(encoded)
    except ValueError:
        raise BadInput("The event is not valid JSON. Send a JSON object.", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise BadInput("The event is not a JSON object. Send a JSON object.", code="invalid_json")
    return raw
