"""ASGI helpers: read a header, send JSON or an error."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.types import Scope, Send

from services.common.errors import AntiphonError, forget_frames
from services.common.http.errors import error_body, error_headers


def header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


async def send_json(send: Send, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
    await send_bytes(send, status, json.dumps(body, ensure_ascii=False).encode(), "application/json", headers)


async def send_error(
    send: Send,
    error: AntiphonError,
    *,
    billed: bool = False,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> None:
    """`body`: the error in another form than OpenAI's. The error loses its traceback."""
    forget_frames(error)
    headers = {**(headers or {}), **error_headers(error, billed=billed)}
    if error.status in (408, 413):  # the rest of the body is not worth reading
        headers["connection"] = "close"
    await send_bytes(send, error.status, body or error_body(error), "application/json", headers)


async def send_bytes(
    send: Send, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
) -> None:
    await send_start(send, status, {"content-type": content_type, "content-length": str(len(body)), **(headers or {})})
    await send({"type": "http.response.body", "body": body})


async def send_start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    encoded = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
