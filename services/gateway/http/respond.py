"""ASGI helpers: read a body within limits, send JSON, notice that the client left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from services.common.errors import AntiphonError, BadInput, SlowBody, TooLarge
from services.gateway.http.errors import error_body, error_headers

R = TypeVar("R")


class ClientLeft(Exception):
    """The client closed the connection before the response was complete."""


def header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


async def read_body(scope: Scope, receive: Receive, max_bytes: int, timeout_s: float) -> bytearray:
    """Return the body. Raise TooLarge as soon as that is known, SlowBody or ClientLeft."""
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    patience = asyncio.timeout(timeout_s)
    try:
        async with patience:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
                more = message.get("more_body", False)
    except TimeoutError:
        if not patience.expired():  # the system's own, which is an OSError
            raise
        raise SlowBody(f"The body did not arrive within {timeout_s:g} s. Send it faster, or a smaller one.") from None
    return body


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body is larger than {max_bytes} bytes. Send a smaller one.", code="request_too_large")


def require_json(scope: Scope) -> None:
    """Raise BadInput where the content-type is not JSON. A missing one is accepted."""
    declared = (header(scope, b"content-type") or b"application/json").split(b";")[0].strip().lower()
    if declared != b"application/json" and not declared.endswith(b"+json"):
        raise BadInput("The content-type is not supported. Send application/json.", code="invalid_content_type")


async def send_json(send: Send, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
    await send_bytes(send, status, json.dumps(body, ensure_ascii=False).encode(), "application/json", headers)


async def send_error(send: Send, error: AntiphonError, *, billed: bool = False) -> None:
    headers = error_headers(error, billed=billed)
    if error.status in (408, 413):  # the rest of the body is not worth reading
        headers["connection"] = "close"
    await send_bytes(send, error.status, error_body(error), "application/json", headers)


async def send_bytes(
    send: Send, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
) -> None:
    await send_start(send, status, {"content-type": content_type, "content-length": str(len(body)), **(headers or {})})
    await send({"type": "http.response.body", "body": body})


async def send_start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    encoded = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


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
