"""Errors over HTTP: OpenAI's body, status and headers, and the messages of failed validation.

The body is `{"error": {"message", "type", "param", "code"}}`. Clients retry 408, 409, 429 and 5xx by themselves.
`retry-after-ms` tells them when, `x-should-retry: false` not to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from services.common.errors import AntiphonError, BadInput, RateLimited

# Clients ignore a longer one, or never retry.
MAX_RETRY_AFTER_S = 60.0
DEFAULT_RETRY_AFTER_S = 1.0
_LONGEST_QUOTE = 100
# Fields that also take a string.
_OR_TEXT = frozenset({"content", "input", "output", "stop", "voice"})


def error_object(error: AntiphonError) -> dict[str, Any]:
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_body(error: AntiphonError) -> bytes:
    return json.dumps(error_object(error), ensure_ascii=False).encode()


def error_headers(error: AntiphonError, *, billed: bool = False) -> dict[str, str]:
    """Return the headers that say when to retry, or not to, or which methods there are.

    `billed`: tokens were generated for this request, so clients must not retry by themselves.
    """
    if isinstance(error, MethodNotAllowed):
        return {"allow": ", ".join(error.allowed)}
    is_conflict = error.status == 409
    if billed or (is_conflict and error.retry_after_s is None):
        return {"x-should-retry": "false"}
    says_when = is_conflict or (error.status == 504 and error.retry_after_s is not None)
    if error.status not in (429, 503) and not says_when:
        return {}
    after_s = min(error.retry_after_s or DEFAULT_RETRY_AFTER_S, MAX_RETRY_AFTER_S)
    headers = {"retry-after": str(math.ceil(after_s)), "retry-after-ms": str(round(after_s * 1000))}
    if isinstance(error, RateLimited) and (error.retry_after_s or 0.0) > 2 * MAX_RETRY_AFTER_S:
        headers["x-should-retry"] = "false"  # a quota, or what never fits: trying soon is in vain
    return headers


def bad_input_from(error: ValidationError, raw: object) -> BadInput:
    """Return the first error of a body that failed validation. `raw` is the parsed body."""
    issue = error.errors(include_url=False)[0]  # few at most: see Strict
    path = field_path(issue["loc"], raw, missing=issue["type"] in ("missing", "union_tag_not_found"))
    context = issue.get("ctx", {})
    if issue["type"] in ("union_tag_not_found", "union_tag_invalid"):
        discriminator = str(context.get("discriminator", "")).strip("'")
        path = f"{path}.{discriminator}".lstrip(".")
    if "field" in context:
        path = f"{path}.{context['field']}".lstrip(".")
    path = _cut(str(context.get("param", path)))
    message, code = _explain(issue, path)
    return BadInput(message, param=path or None, code=code)


def field_path(location: Sequence[int | str], raw: object, *, missing: bool) -> str:
    """Return a pydantic location as OpenAI writes it: ("messages", 0, "user", "content") → "messages[0].content".

    A location also holds tags of unions, which are left out: a part's type or a message's role after its index, and
    other names that the body does not hold, except the last one where a field is missing.
    """
    path = ""
    value: Any = raw
    in_list = False
    for i, key in enumerate(location):
        if isinstance(key, int):
            path += f"[{key}]"
            value = value[key] if isinstance(value, list) and key < len(value) else None
        elif in_list and isinstance(value, Mapping) and _is_tag(value, location[i:]):
            pass
        elif isinstance(value, Mapping) and key in value:
            path += f".{key}" if path else key
            value = value[key]
        elif missing and i == len(location) - 1:
            path += f".{key}" if path else key
        in_list = isinstance(key, int)
    return path


def _is_tag(value: Mapping[Any, Any], rest: Sequence[int | str]) -> bool:
    """Return whether the location `rest` begins with the tag of `value`, and not with a field of the same name: a tool
    is {"type": "function", "function": …}."""
    tag = rest[0]
    if tag not in (value.get("type"), value.get("role")) or len(rest) == 1:
        return False
    return tag not in value or rest[1] in value


def _explain(issue: ErrorDetails, path: str) -> tuple[str, str]:
    """Return (message, code) of one pydantic error."""
    kind, context = issue["type"], issue.get("ctx", {})
    name = path.rpartition(".")[2]
    if kind == "operators_parameter":
        return (
            f"Unsupported parameter: '{path}' is set by the operator of this server. Leave it out.",
            "unsupported_parameter",
        )
    if kind == "extra_forbidden":
        return f"Unknown parameter: '{path}'.", "unknown_parameter"
    if kind in ("missing", "union_tag_not_found"):
        return f"Missing required parameter: '{path}'.", "missing_required_parameter"
    if kind == "unsupported_parameter":
        accepted = " or ".join(json.dumps(value) for value in context.get("accepted", ()))
        instead = f"Leave it out, or send {accepted}." if accepted else "Leave it out."
        if renamed := context.get("renamed"):
            instead = f"Send '{renamed}' in its place."
        return f"Unsupported value: '{path}' is not supported by this server. {instead}", kind
    if kind in ("literal_error", "union_tag_invalid"):
        given = context.get("tag", issue["input"])
        expected = context.get("expected", context.get("expected_tags", ""))
        return f"Invalid value: {_quote(given)}. Supported values are: {expected}.", "invalid_value"
    if kind == "too_long":
        return f"Invalid '{path}': it has too many items. Send at most {context.get('max_length')}.", "invalid_value"
    if kind in ("list_type", "model_type", "model_attributes_type"):
        shape = "a list" if kind == "list_type" else "an object"
        text = "a string or " if name in _OR_TEXT else ""
        return f"Invalid type for '{path}': it should be {text}{shape}.", "invalid_type"
    if kind == "invalid_value":
        return str(context.get("problem", issue["msg"])), kind
    if kind.endswith(("_type", "_from_float")):
        return f"Invalid type for '{path}': {_lower(issue['msg'])}.", "invalid_type"
    return f"Invalid '{path}': {_lower(issue['msg'])}.", "invalid_value"


def _quote(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return f"'{_cut(value if isinstance(value, str) else json.dumps(value, default=str))}'"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


class MethodNotAllowed(BadInput):
    status = 405
    default_code = "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        super().__init__(f"The method {method} is not allowed on {path}. Send {' or '.join(allowed)}.")
        self.allowed = allowed
