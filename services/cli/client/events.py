"""Server-sent events, as OpenAI's API streams them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from services.cli.client.errors import ClientError
from services.cli.client.server import error_text


def read_events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the object of each event, up to `[DONE]` or the end of the body.

    Raise ClientError where an event is an error, or no JSON object.
    """
    for line in _lines(response):
        # Other lines are comments that keep the connection alive, event names, and the empty ones between events.
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        event = _object(data)
        if isinstance(event.get("error"), dict):
            raise ClientError(error_text(event["error"], response.headers.get("x-request-id")))
        yield event


def _lines(response: httpx.Response) -> Iterator[bytes]:
    """Yield the lines, which end with a line feed alone: httpx' own also end at U+2028, which may be part of a text."""
    rest = b""
    for data in response.iter_bytes():
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _object(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise ClientError("The server does not speak OpenAI's API: an event of the stream is no JSON object.")
    return event
