"""What an operation of the Admin API is. Routes and the OpenAPI document are both made of these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from services.common.errors import Forbidden, NotFound
from services.control.tenancy.audit import Actor


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key a request has. `project_id` is None for an admin key; else the key reads that project and no more."""

    actor: Actor
    project_id: str | None = None

    def check_may_read(self, project_id: str) -> None:
        """Raise NotFound where the project is another one: whether it exists is not the caller's business."""
        if self.project_id is not None and self.project_id != project_id:
            raise NotFound(f"There is no project '{project_id}'.")

    @property
    def own_project(self) -> str:
        """The project whose key this is. Raise Forbidden for an admin key: it has none."""
        if self.project_id is None:
            raise Forbidden(
                "This is for a project's own key. With an admin key use /admin/v1/usage.", code="project_key_needed"
            )
        return self.project_id


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its body and query are checked. `ids` are those of the path."""

    caller: Caller
    ids: Mapping[str, str]
    body: Any
    query: Any


StatusAndBody = tuple[int, BaseModel]
BASE = "/admin/v1"


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    method: Literal["GET", "POST", "PUT"]
    path: str
    summary: str
    run: Callable[[Call], Awaitable[StatusAndBody]]
    # Status → body.
    replies: Mapping[int, type[BaseModel]]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    # Statuses of errors beside those that every operation has.
    errors: tuple[int, ...] = ()
    # Whether an API key with the scope admin_read may call it, for its own project.
    for_projects: bool = False

    def check_allowed(self, caller: Caller) -> None:
        """Raise Forbidden where the caller's key is none for this operation."""
        if caller.project_id is not None and not self.for_projects:
            raise Forbidden(
                "A project's key may only read its own project, keys and usage. Use an admin key.",
                code="admin_key_needed",
            )
