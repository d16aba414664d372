"""A client's connection to the Realtime API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect

Event = dict[str, Any]


class RefusedError(Exception):
    """The gateway has answered a client event with an error."""


class Line:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, kind: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, **fields}))

    async def next(self) -> Event:
        """Return the next event. Raise ConnectionClosed where there is none, RefusedError where it is an error."""
        event: Event = json.loads(await self._socket.recv())
        if event["type"] == "error":
            raise RefusedError(f"{event['error']['code']}: {event['error']['message']}")
        return event

    async def until(self, kind: str) -> Event:
        """Return the next event of this type."""
        while (event := await self.next())["type"] != kind:
            pass
        return event

    async def ask(self, kind: str, answer: str, **fields: Any) -> Event:
        await self.send(kind, **fields)
        return await self.until(answer)


@asynccontextmanager
async def open_line(port: int, key: str, **query: str) -> AsyncGenerator[Line]:
    """Connect to a gateway. `query`: `model`, or the `session_id` of the session to go on with.

    Raise InvalidStatus where it refuses, OSError where nobody listens.
    """
    url = f"ws://127.0.0.1:{port}/v1/realtime?{urlencode(query)}"
    headers = {"authorization": f"Bearer {key}"}
    async with connect(
        url, additional_headers=headers, compression=None, open_timeout=None, ping_interval=None, max_size=None
    ) as socket:
        yield Line(socket)
