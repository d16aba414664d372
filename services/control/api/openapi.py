"""The OpenAPI document of the Admin API, made of the same operations as its routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.common.http.error_reply import ErrorReply
from services.control.api.operation import Operation

_REF = "#/components/schemas/{model}"
_ALWAYS = {
    401: "The key is missing, unknown, expired or revoked.",
    403: "The key may not do this.",
    503: "The database is away. Retry later.",
}
_REASONS = {
    400: "A field is wrong. The error names it.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "It contradicts what is there: the code says how.",
    413: "The body is too large.",
}


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the document, OpenAPI 3.1."""
    models: dict[type[BaseModel], str] = {ErrorReply: "serialization"}
    for operation in operations:
        models |= dict.fromkeys(operation.replies.values(), "serialization")
        models |= dict.fromkeys([operation.body] if operation.body else [], "validation")
    names, schemas = models_json_schema(list(models.items()), ref_template=_REF)  # pyright: ignore[reportArgumentType]
    of_model = {model: found for (model, _), found in names.items()}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, of_model)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Antiphon Admin API",
            "version": "1",
            "description": "Organisations, projects and API keys of an Antiphon installation, their limits and usage.",
        },
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, of_model: Mapping[Any, Any]) -> dict[str, Any]:
    reasons = _ALWAYS | {status: _REASONS[status] for status in operation.errors}
    if operation.body or operation.query:
        reasons[400] = _REASONS[400]
    if operation.body:
        reasons |= {408: _REASONS[408], 413: _REASONS[413]}
    replies = {str(status): _content("Done.", of_model[model]) for status, model in operation.replies.items()}
    replies |= {str(status): _content(text, of_model[ErrorReply]) for status, text in sorted(reasons.items())}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation), *_query_parameters(operation)],
        "responses": replies,
    }
    if operation.for_projects:
        described["description"] = "An API key with the scope admin_read may call it for its own project."
    if operation.body:
        wanted = any(field.is_required() for field in operation.body.model_fields.values())
        described["requestBody"] = {
            "required": wanted,
            "content": {"application/json": {"schema": of_model[operation.body]}},
        }
    return described


def _content(text: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": body}}}


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    if "{id}" not in operation.path:
        return []
    return [{"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    found = operation.query.model_json_schema()
    required = found.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": about}
        for name, about in found["properties"].items()
    ]
