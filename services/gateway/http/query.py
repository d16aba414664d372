"""Queries of lists that come in pages."""

from __future__ import annotations

from starlette.datastructures import QueryParams
from starlette.types import Scope

from services.common.errors import BadInput, NotFound
from services.gateway.batches.records import ID


def query_of(scope: Scope, *names: str) -> QueryParams:
    """Return the query. Raise BadInput for a parameter that is not among `names`."""
    query = QueryParams(scope["query_string"])
    if unknown := next((name for name in query if name not in names), None):
        raise BadInput(f"Unknown parameter: '{unknown[:100]}'.", param=unknown[:100], code="unknown_parameter")
    return query


def after_of(query: QueryParams) -> str:
    """Return the id that the page begins behind; "" = it begins at the first one. Raise BadInput where it is none."""
    after = query.get("after", "")
    if after and not ID.fullmatch(after):
        raise BadInput("Invalid 'after': it is no id.", param="after")
    return after


def id_of(scope: Scope, kind: str) -> str:
    """Return the id in the path. Raise NotFound where it can be none; `kind` says of what."""
    id: str = scope["path_params"]["id"]
    if not ID.fullmatch(id):
        raise NotFound(f"There is no {kind} '{id[:100]}'.", param=f"{kind}_id", code=f"{kind}_not_found")
    return id


def limit_of(query: QueryParams, default: int, most: int) -> int:
    text = query.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= most):
        raise BadInput(f"Invalid 'limit': it should be a whole number from 1 to {most}.", param="limit")
    return int(text)


def is_oldest_first(query: QueryParams) -> bool:
    """Return what the parameter `order` says; the latest come first where it is left out."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadInput("Invalid 'order': it should be 'asc' or 'desc'.", param="order")
    return order == "asc"
