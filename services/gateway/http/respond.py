"""ASGI helpers: read a body within limits, notice that the client left."""

from __future__ import annotations

import asyncio
import codecs
import io
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from starlette.types import Receive, Scope

from services.common.errors import BadInput, TooLarge
from services.common.http.respond import header
from services.gateway.client_time import ClientTime
from services.gateway.http.compressed import gunzip_of
from services.gateway.limits import RequestLimits
from services.gateway.memory import RequestMemory

R = TypeVar("R")

BODY_READER = "body_reader"
"""Of a scope's state: a BodyReader, where something else wants the body too."""
FAILED = "failed"
"""Of the last message of a response: it tells of an error, though the status was sent before that."""


class BodyReader(Protocol):
    """Gets a body as the endpoint does: decompressed, in the same pieces."""

    def add(self, piece: bytes) -> None: ...

    async def end(self) -> None:
        """Raise whatever ends the request before it is worked on."""
        ...


class ClientLeft(Exception):
    """The client closed the connection before the response was complete."""


async def read_body(
    scope: Scope, receive: Receive, limits: RequestLimits, memory: RequestMemory, *, later_bytes: int = 0
) -> bytes:
    """Return the body, decompressed and without a byte order mark. It is in memory once: the JSON parser would copy a
    bytearray.

    Its bytes count as they arrive or are decompressed, and at the end what parsing and decoding them may take.
    `later_bytes`: so many more may be added to the body's later. Raise BadInput, TooLarge as soon as that is known,
    Capacity, SlowBody or ClientLeft.
    """
    body, size_bytes, declared = io.BytesIO(), 0, declared_bytes(scope)
    if declared is not None:
        declared += later_bytes

    async def add(piece: bytes) -> None:
        nonlocal size_bytes
        await memory.grow_body(size_bytes + len(piece), declared, is_whole=False)
        size_bytes += body.write(piece)

    async def end() -> None:
        await memory.grow_body(size_bytes, declared, is_whole=True)

    await read_pieces(scope, receive, limits, add, end)
    return body.getvalue().removeprefix(codecs.BOM_UTF8)


async def read_pieces(
    scope: Scope,
    receive: Receive,
    limits: RequestLimits,
    add: Callable[[bytes], Awaitable[None]],
    end: Callable[[], Awaitable[None]],
) -> None:
    """Read the body, decompressed: call `add` with each piece, at most 64 KiB or what arrived at once, and then `end`.
    The time that they take is ours, not the client's.

    Raise BadInput, TooLarge, SlowBody or ClientLeft, and what a BodyReader raises at the end, `add` and `end`.
    """
    also: BodyReader | None = scope.get("state", {}).get(BODY_READER)
    unzip, max_bytes = gunzip_of(header(scope, b"content-encoding")), limits.max_body_bytes
    if (_content_length(scope) or 0) > max_bytes:
        raise _too_large(max_bytes)
    arrived_bytes = size_bytes = 0
    slow = f"The body did not arrive within {limits.body_timeout_s:g} s. Send it faster, or a smaller one."
    async with ClientTime(limits.body_timeout_s, slow) as time:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            arrived_bytes += len(chunk)
            if arrived_bytes > max_bytes:
                raise _too_large(max_bytes)
            for piece in (chunk,) if unzip is None else unzip.pieces(chunk):
                size_bytes += len(piece)
                if size_bytes > max_bytes:
                    raise _too_large(max_bytes)
                with time.ours():
                    await add(piece)
                    if also is not None:
                        also.add(piece)
                    if unzip is not None:
                        await asyncio.sleep(0)  # one chunk may make a thousand pieces
        if unzip is not None:
            unzip.finish()
        with time.ours():
            if also is not None:  # first: a request that has run needs no room, and what refused it then is over
                await also.end()
            await end()


def declared_bytes(scope: Scope) -> int | None:
    """Return the size of the body where it is announced. That of a compressed body is not."""
    return _content_length(scope) if gunzip_of(header(scope, b"content-encoding")) is None else None


def _content_length(scope: Scope) -> int | None:
    declared = header(scope, b"content-length")
    return int(declared[:20]) if declared is not None and declared.isdigit() else None


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body is larger than {max_bytes} bytes. Send a smaller one.", code="request_too_large")


def require_json(scope: Scope) -> None:
    """Raise BadInput where the content-type is not JSON. A missing one is accepted."""
    declared = (header(scope, b"content-type") or b"application/json").split(b";")[0].strip().lower()
    if declared != b"application/json" and not declared.endswith(b"+json"):
        raise BadInput("The content-type is not supported. Send application/json.", code="invalid_content_type")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, R], name: str) -> R:
    """Run `work`. Where the client leaves first, cancel it, wait for its end and raise ClientLeft."""
    working = asyncio.create_task(work, name=name)
    watching = asyncio.create_task(_disconnect(receive), name=f"{name} watch")
    tasks: tuple[asyncio.Task[Any], ...] = (working, watching)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
