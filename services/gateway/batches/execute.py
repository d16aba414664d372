"""Runs a line: the same endpoint that clients call, in this process, with the line's body as the request's."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json
from starlette.types import ASGIApp, Message

from services.common.data_urls import decode_base64, split_data_url
from services.common.errors import INTERNAL, AntiphonError, BadInput, Fault
from services.common.http.respond import send_error
from services.common.key_scopes import Scope
from services.common.telemetry.logs import set_request_id
from services.gateway.batches.line import InputLine
from services.gateway.http.request import MEMORY
from services.gateway.memory import RequestMemory
from services.gateway.turn.intent import Principal

logger = logging.getLogger(__name__)
# The endpoint gets its body in pieces of this.
_PIECE_BYTES = 1 << 20
_AUDIO_FORMS = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})
_FILE = "file"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`scope`: what the key needs."""

    app: ASGIApp
    scope: Scope


@dataclass(slots=True)
class EndpointResponse:
    """What an endpoint answered. `body` is JSON's values."""

    status: int
    request_id: str
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def error_code(self) -> str:
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return str(error.get("code")) if isinstance(error, dict) else ""


class LineExecutor:
    """`endpoints` by their paths."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints

    async def execute(
        self, principal: Principal, request_id: str, path: str, line: InputLine, memory: RequestMemory
    ) -> EndpointResponse:
        """Return the answer to the request, whatever its status. `memory` holds the line. Its body is empty after."""
        set_request_id(request_id)
        sink = _Sink()
        try:
            endpoint = self._endpoints[path]
            principal.check_scope(endpoint.scope)
            content_type, sent = await asyncio.to_thread(_request, path, line.body)  # up to megabytes of base64
            line.body.clear()
            scope = {
                "type": "http",
                "http_version": "1.1",
                "method": "POST",
                "path": path,
                "query_string": b"",
                "headers": [(b"content-type", content_type), (b"content-length", str(len(sent)).encode())],
                "state": {"principal": principal, "request_id": request_id, MEMORY: memory},
            }
            source = _Source(sent)
            del sent
            await endpoint.app(scope, source, sink)
        except AntiphonError as error:
            sink = await _told(error)
        except Exception:
            logger.exception("%s failed", request_id)
            sink = await _told(Fault(INTERNAL))
        return EndpointResponse(sink.status, request_id, await asyncio.to_thread(sink.described), sink.headers)


def _request(path: str, body: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the content-type and the body as the endpoint takes them. Raise BadInput."""
    for name, only in (("stream", False), ("stream_format", "audio"), ("background", False)):
        if body.get(name) not in (None, only):
            raise BadInput(
                f"Unsupported value: '{name}' is not supported in a batch. Leave it out.",
                param=name,
                code="unsupported_parameter",
            )
    if path not in _AUDIO_FORMS:
        return b"application/json", to_json(body)
    fields = dict(body)
    sound = _sound(fields.pop(_FILE, None))
    boundary = secrets.token_hex(16)
    parts: list[bytes | bytearray] = []
    for name, value in fields.items():
        for one in value if isinstance(value, list) else (value,):  # as clients write a list into a form
            if one is not None:
                text = one.encode() if isinstance(one, str) else to_json(one)
                parts += [_part(boundary, f'name="{_quoted(name)}"'), text, b"\r\n"]
    parts += [_part(boundary, f'name="{_FILE}"; filename="sound"'), sound, f"\r\n--{boundary}--\r\n".encode()]
    return f"multipart/form-data; boundary={boundary}".encode(), b"".join(parts)


def _part(boundary: str, disposition: str) -> bytes:
    return f"--{boundary}\r\ncontent-disposition: form-data; {disposition}\r\n\r\n".encode()


def _quoted(name: str) -> str:
    return name.replace("\\", "_").replace('"', "_").replace("\r", "_").replace("\n", "_")


def _sound(given: object) -> bytearray:
    """Return the bytes of a line's `file`: base64, or a data: URL with it. Raise BadInput."""
    if given is None:
        raise BadInput(f"Missing required parameter: '{_FILE}'.", param=_FILE, code="missing_required_parameter")
    if not isinstance(given, str):
        raise BadInput(f"Invalid '{_FILE}': send base64, or a data: URL with it.", param=_FILE)
    start = 0
    if given[:5].lower() == "data:":
        found = split_data_url(given)
        if found is None:
            raise BadInput(f"Invalid '{_FILE}': the data: URL holds no base64.", param=_FILE)
        start = found[1]
    try:
        return decode_base64(given, start)
    except ValueError:
        raise BadInput(f"Invalid '{_FILE}': it is not base64, nor a data: URL with it.", param=_FILE) from None


class _Source:
    """ASGI's receive: the whole body, and then a client that stays."""

    def __init__(self, body: bytes) -> None:
        self._left: memoryview | None = memoryview(body)

    async def __call__(self) -> Message:
        left = self._left
        while left is None:
            await asyncio.Event().wait()
        piece, rest = bytes(left[:_PIECE_BYTES]), left[_PIECE_BYTES:]
        self._left = rest if rest else None
        return {"type": "http.request", "body": piece, "more_body": bool(rest)}


class _Sink:
    """ASGI's send: keeps the response."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: dict[str, str] = {}
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in message["headers"]}
        else:
            self._body += message.get("body", b"")

    def described(self) -> Any:
        """Return the body as values of JSON: that of JSON itself, {"text"}, or base64 in {"data", "content_type"}."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip()
        if kind == "application/json":
            return from_json(bytes(self._body))
        if kind == "text/plain":
            return {"text": self._body.decode("utf-8", "replace")}
        return {"data": base64.b64encode(self._body).decode(), "content_type": kind}


async def _told(error: AntiphonError) -> _Sink:
    sink = _Sink()
    await send_error(sink, error)
    return sink
