"""What an operation of the HTTP API is. Routes, scopes and the OpenAPI document are all made of these."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel
from starlette.types import ASGIApp

from services.common.http.error_reply import ErrorReply
from services.common.key_scopes import Scope

COMPATIBLE = "/compatible-mode"
"""Before the paths of DashScope's compatible mode: /compatible-mode/v1/chat/completions."""


@dataclass(frozen=True, slots=True)
class Form:
    """A body of multipart/form-data: text fields, and one file. `alone`: the media type of the file as all of the
    body; "" = it comes in a form."""

    fields: type[BaseModel]
    file: str
    alone: str = ""


@dataclass(frozen=True, slots=True)
class Events:
    """Server-sent events, each with `data: ` and one of these as JSON. `ends`: what the last one holds instead."""

    models: tuple[type[BaseModel], ...]
    ends: str = ""


@dataclass(frozen=True, slots=True)
class ResponseDoc:
    """A response that is no error: media type → what it holds. None = bytes or plain text."""

    text: str
    content: Mapping[str, type[BaseModel] | Events | None] = field(
        default_factory=dict[str, "type[BaseModel] | Events | None"]
    )


@dataclass(frozen=True, slots=True)
class Operation:
    """`path` as Starlette has it: "/v1/models/{id:path}"."""

    name: str
    method: Literal["GET", "POST", "DELETE"]
    path: str
    summary: str
    app: ASGIApp
    answers: Mapping[int, ResponseDoc]
    description: str = ""
    body: type[BaseModel] | Form | None = None
    # Of the key; None = any will do.
    scope: Scope | None = None
    needs_key: bool = True
    # It has a turn, which takes a model, a slot and the limits of who asks.
    has_turn: bool = False
    # It makes or changes what must not be made or changed twice. What has a turn is like that.
    runs_once: bool = False
    # Statuses of errors beside those that follow from the other fields: see openapi.py.
    errors: tuple[int, ...] = ()
    # Names in its path and query → what they are.
    path_parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    query_parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    # Headers of a request that it reads → what they are.
    header_parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    # The body of its errors.
    error: type[BaseModel] = ErrorReply
    # Also served below COMPATIBLE.
    is_compatible: bool = False
    # For requests with an upgrade; `app` answers those without.
    web_socket: ASGIApp | None = None

    @property
    def takes_idempotency_key(self) -> bool:
        return self.has_turn or self.runs_once

    @property
    def shown_path(self) -> str:
        """The path as OpenAPI has it: "/v1/models/{id}"."""
        return re.sub(r":\w+}", "}", self.path)

    @property
    def prefixes(self) -> tuple[str, ...]:
        return ("", COMPATIBLE) if self.is_compatible else ("",)
