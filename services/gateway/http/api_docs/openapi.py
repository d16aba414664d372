"""The OpenAPI document of the HTTP API, made of the same operations as its routes and of the models that they use."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.common.http.error_reply import ErrorReply
from services.gateway.http.operation import COMPATIBLE, Events, Form, Operation, ResponseDoc
from services.gateway.http.request import TIMEOUT_HEADER
from services.gateway.idempotency.keys import MAX_KEY_CHARS

Json = dict[str, Any]

_DESCRIPTION = f"""\
OpenAI's API for Qwen3-Omni, with speech. Clients of OpenAI work as they are.

- Every error has the same body, also one of a URL or method that is not served (404, 405). Below `/api/v1/`
  and `/api-ws/v1/` it is DashScope's.
- Paths that list `{COMPATIBLE}` among their servers are served below it, too.
- A slash at a path's end changes nothing. GET also answers HEAD.
- Bodies may be compressed: `content-encoding: gzip`.
- What the operator set may be less: sizes, choices, realtime sessions.
"""
_REASONS = {
    400: "The request is wrong. `param` names the field.",
    401: "The key is missing, unknown, expired or revoked.",
    403: "The key lacks the scope, or may not use the model or the voice.",
    404: "There is no such model, or no such response or item is kept.",
    408: "Headers or body came too slowly.",
    409: "The first request with this Idempotency-Key still runs, or its response was too large to be kept. Of files"
    " and batches also: what is asked for conflicts with what is there.",
    413: "Body, text or media are too large.",
    426: "The request asks for no upgrade. Open a WebSocket.",
    429: "A limit of the key, its project or organisation is reached, or there is no room. Retry later.",
    431: "The headers are too large.",
    500: "A fault of the server, or two engines in a row failed on this request.",
    503: "No worker, or a service that is needed is away. Retry later.",
    504: "The deadline passed.",
}
_BY_THE_CONNECTION = frozenset({408, 431})
"""They may come before there is a request, and then have no id."""
_HEADERS: Mapping[str, tuple[str, Json]] = {
    "x-request-id": (
        "names the request in logs and usage records",
        {"type": "string", "pattern": "^req_[0-9a-f]{32}$"},
    ),
    "retry-after": ("seconds until a retry makes sense", {"type": "integer", "minimum": 1, "maximum": 60}),
    "retry-after-ms": ("the same in milliseconds", {"type": "integer", "minimum": 0, "maximum": 60_000}),
    "x-should-retry": ("false = retrying by itself does not help, or would cost again", {"enum": ["false"]}),
    "idempotent-replayed": (
        "the response is that of an earlier request with the same Idempotency-Key",
        {"enum": ["true"]},
    ),
    **{
        f"x-ratelimit-{what}-{of}": (f"{text} of {of} a minute, where it is limited", schema)
        for of in ("requests", "tokens")
        for what, text, schema in (
            ("limit", "the limit", {"type": "integer", "minimum": 0}),
            ("remaining", "what is left", {"type": "integer", "minimum": 0}),
            ("reset", "when all is free again", {"type": "string", "pattern": "^[0-9]+s$"}),
        )
    },
}
_RATE_LIMITS = tuple(name for name in _HEADERS if name.startswith("x-ratelimit"))
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "a request with it runs once, and is answered again from what is kept",
    "schema": {"type": "string", "pattern": "^[ -~]+$", "maxLength": MAX_KEY_CHARS},
}
_RETRY = ("retry-after", "retry-after-ms", "x-should-retry")


def statuses_of(operation: Operation) -> list[int]:
    """Return the statuses of an operation's errors."""
    found = {*_BY_THE_CONNECTION, *operation.errors}
    if operation.needs_key:
        found |= {401, 500, 503}
    if operation.scope is not None:
        found.add(403)
    if operation.body is not None:
        found |= {400, 413}
    if operation.takes_idempotency_key:
        found |= {400, 409}
    if operation.has_turn:
        found |= {403, 404, 429, 504}
    return sorted(found - operation.answers.keys())


def document(operations: Sequence[Operation], version: str = "1") -> Json:
    """Return the document, OpenAPI 3.1."""
    refs, schemas = _described(tuple(_models(operations)))
    paths: dict[str, Json] = {}
    for operation in operations:
        path = paths.setdefault(operation.shown_path, {})
        if operation.is_compatible:
            path["servers"] = [{"url": "/"}, {"url": COMPATIBLE, "description": "as DashScope has it"}]
        path[operation.method.lower()] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Antiphon", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": {name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "the server's key, or a tenant's"}
            },
        },
    }


@functools.cache
def _described(models: tuple[tuple[type[BaseModel], str], ...]) -> tuple[Mapping[Any, Json], Json]:
    """Return each model's reference, and the schemas that they refer to. Not for change: all documents share them."""
    names, schemas = models_json_schema(
        list(models),  # pyright: ignore[reportArgumentType]
        ref_template="#/components/schemas/{model}",
    )
    return {model: found for (model, _), found in names.items()}, schemas.get("$defs", {})


def _models(operations: Iterable[Operation]) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield each model that is sent or received, with the side of it that is described."""
    found: dict[tuple[type[BaseModel], str], None] = {(ErrorReply, "serialization"): None}
    for operation in operations:
        found[operation.error, "serialization"] = None
        if operation.body is not None and not isinstance(operation.body, Form):
            found[operation.body, "validation"] = None
        for answer in operation.answers.values():
            for content in answer.content.values():
                models = content.models if isinstance(content, Events) else (content,) if content else ()
                found |= {(model, "serialization"): None for model in models}
    yield from found


def _operation(operation: Operation, refs: Mapping[Any, Json]) -> Json:
    responses = {str(status): _answer(answer, operation, refs) for status, answer in operation.answers.items()}
    responses |= {str(status): _error(status, operation, refs) for status in statuses_of(operation)}
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": list(_parameters(operation)),
        "responses": dict(sorted(responses.items())),
    }
    about = [operation.description] if operation.description else []
    if operation.scope is not None:
        about.append(f"The key needs the scope `{operation.scope}`.")
    if about:
        described["description"] = "\n\n".join(about)
    if not operation.needs_key:
        described["security"] = []
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _body(operation.body, refs)}
    return described


def _parameters(operation: Operation) -> Iterator[Json]:
    text = {"type": "string", "minLength": 1}
    for name, about in operation.path_parameters.items():
        yield {"name": name, "in": "path", "required": True, "description": about, "schema": text}
    for name, about in operation.query_parameters.items():
        yield {"name": name, "in": "query", "description": about, "schema": {**text, "maxLength": 512}}
    for name, about in operation.header_parameters.items():
        yield {"name": name, "in": "header", "description": about, "schema": {"type": "string"}}
    if operation.has_turn:
        about = "shortens the deadline of the request"
        schema = {"type": "integer", "minimum": 1, "maximum": 10**12 - 1}
        yield {"name": TIMEOUT_HEADER.decode(), "in": "header", "description": about, "schema": schema}
    if operation.takes_idempotency_key:
        yield _IDEMPOTENCY_KEY


def _body(body: type[BaseModel] | Form, refs: Mapping[Any, Json]) -> Json:
    if not isinstance(body, Form):
        return {"application/json": {"schema": refs[body]}}
    described = body.fields.model_json_schema()
    file = {"type": "string", "format": "binary", "description": "the file's bytes", "minLength": 1}
    described["properties"] = {body.file: file, **described["properties"]}
    described["required"] = [body.file, *described.get("required", ())]
    alone = {body.alone: {"schema": {"type": "string", "minLength": 1}}} if body.alone else {}
    return {**alone, "multipart/form-data": {"schema": described}}


def _answer(answer: ResponseDoc, operation: Operation, refs: Mapping[Any, Json]) -> Json:
    described: Json = {"description": answer.text, "headers": _headers(("x-request-id",), is_required=True)}
    if operation.has_turn:
        described["headers"] |= _headers(_RATE_LIMITS)
    if operation.takes_idempotency_key:
        described["headers"] |= _headers(("idempotent-replayed",))
    if answer.content:
        described["content"] = {kind: _content(content, operation, refs) for kind, content in answer.content.items()}
    return described


def _content(content: type[BaseModel] | Events | None, operation: Operation, refs: Mapping[Any, Json]) -> Json:
    if content is None:
        return {"schema": {}}
    if not isinstance(content, Events):
        return {"schema": refs[content]}
    of_events = [refs[model] for model in (*content.models, operation.error)]
    ends = f" The last event is `data: {content.ends}`, or an error." if content.ends else ""
    about = f"Server-sent events: each line `data: ` holds one of `x-events` as JSON.{ends}"
    return {"schema": {"description": about}, "x-events": {"anyOf": of_events}}


def _error(status: int, operation: Operation, refs: Mapping[Any, Json]) -> Json:
    headers = _headers(("x-request-id",), is_required=status not in _BY_THE_CONNECTION)
    if status in (409, 429, 503, 504):
        headers |= _headers(_RETRY)
    if status == 429 and operation.has_turn:
        headers |= _headers(_RATE_LIMITS)
    if status == 500:
        headers |= _headers(("x-should-retry",))
    schema = refs[operation.error]
    if status in _BY_THE_CONNECTION and operation.error is not ErrorReply:
        schema = {"anyOf": [schema, refs[ErrorReply]]}
    return {
        "description": _REASONS[status],
        "headers": headers,
        "content": {"application/json": {"schema": schema}},
    }


def _headers(names: Iterable[str], *, is_required: bool = False) -> Json:
    """Return references, but for headers that are always there: a reference can't say so."""
    if not is_required:
        return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return {name: {"required": True, "description": _HEADERS[name][0], "schema": _HEADERS[name][1]} for name in names}
