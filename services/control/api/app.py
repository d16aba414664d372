"""The HTTP application of the Admin API: it checks the key, the body and the query, and runs the operation."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import INTERNAL, AntiphonError, BadInput, Fault, NotFound, SlowBody, TooLarge, Unavailable
from services.common.http.errors import bad_input_from
from services.common.http.respond import header, send_bytes, send_error, send_json
from services.common.http.routes import Routes
from services.common.telemetry.logs import set_request_id
from services.control.api.auth import Callers
from services.control.api.openapi import document
from services.control.api.operation import Call, Operation

_ID = re.compile(r"[a-z]{1,8}_[0-9a-f]{32}")
MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 10.0
OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/openapi.json"})

logger = logging.getLogger(__name__)


def build_app(operations: Sequence[Operation], callers: Callers, ready: Callable[[], Awaitable[str]]) -> ASGIApp:
    """Build the application. `ready` returns why the service is not ready; "" = it is."""
    described = document(operations)

    async def openapi(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, described)

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"status": "ok"})

    async def is_ready(scope: Scope, receive: Receive, send: Send) -> None:
        reason = await ready()
        if reason:
            raise Unavailable(reason, code="not_ready", retry_after_s=1)
        await send_json(send, 200, {"status": "ok"})

    routes = [Route(each.path, _Endpoint(each), methods=[each.method]) for each in operations]
    for path, app in (
        ("/openapi.json", openapi),
        ("/health", live),
        ("/health/live", live),
        ("/health/ready", is_ready),
    ):
        routes.append(Route(path, _Plain(app), methods=["GET"]))
    return _Frame(_Authentication(Routes(routes), callers))


class _Plain:
    """An ASGI function as a class: Starlette takes a bare function for one of a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class _Endpoint:
    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation, caller = self._operation, scope["state"]["caller"]
        operation.check_allowed(caller)
        ids: dict[str, str] = scope["path_params"]
        if any(not _ID.fullmatch(id) for id in ids.values()):
            raise NotFound("There is no such id.")
        query = _query(operation.query, scope["query_string"])
        body = await _body(operation.body, scope, receive)
        status, reply = await operation.run(Call(caller, ids, body, query))
        # A key is in some of them: no cache keeps one.
        headers = {"cache-control": "no-store"}
        await send_bytes(send, status, reply.model_dump_json().encode(), "application/json", headers)


def _query(model: type[BaseModel] | None, query: bytes) -> BaseModel | None:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        raise BadInput("The query is not valid. Encode it as UTF-8 with %.", code="invalid_query") from None
    raw = dict(pairs)
    if model is None:
        if raw:
            raise BadInput(f"Unknown parameter: '{next(iter(raw))[:100]}'.", code="unknown_parameter")
        return None
    if len(raw) != len(pairs):
        raise BadInput("A parameter of the query is given twice. Give each once.", code="invalid_query")
    if any("\x00" in value for value in raw.values()):
        raise BadInput("A parameter of the query holds a null character.", code="invalid_query")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise bad_input_from(error, raw) from None


async def _body(model: type[BaseModel] | None, scope: Scope, receive: Receive) -> BaseModel | None:
    if model is None:
        return None
    declared = (header(scope, b"content-type") or b"application/json").split(b";")[0].strip().lower()
    if declared != b"application/json":
        raise BadInput("The content-type is not supported. Send application/json.", code="invalid_content_type")
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientLeft
                data += message.get("body", b"")
                more = message.get("more_body", False)
                if len(data) > MAX_BODY_BYTES:
                    raise TooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes. Send a smaller one.")
    except TimeoutError:
        raise SlowBody(f"The body did not arrive within {BODY_TIMEOUT_S:g} s.") from None
    try:
        raw = from_json(bytes(data)) if data else {}
    except ValueError:
        raise BadInput("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise BadInput("The body must be a JSON object.", code="invalid_type")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise bad_input_from(error, raw) from None


class _Authentication:
    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            state = scope.setdefault("state", {})
            remote = scope["client"][0] if scope.get("client") else ""
            state["caller"] = await self._callers.caller_of(
                header(scope, b"authorization"), state["request_id"], remote, scope["path"]
            )
        await self._app(scope, receive, send)


class _ClientLeft(Exception):
    pass


class _Frame:
    """Gives each request an id, sends it as x-request-id, and answers every exception in the project's form."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = "req_" + secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id
        set_request_id(request_id)
        begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except _ClientLeft:
            pass
        except Exception as error:
            if not isinstance(error, AntiphonError):
                logger.exception("%s failed", request_id)
                error = Fault(INTERNAL)
            if begun:
                raise
            await send_error(send_with_id, error)
