"""A line of a batch's input, and the line of output that it becomes.

{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {…}}
{"id": "batch_req_…", "custom_id": "a", "response": {"status_code": 200, "request_id": "req_…", "body": {…}},
 "error": null}
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from services.common.errors import TooLarge
from services.gateway.batches.records import BatchError
from services.gateway.http.chat.outline import outline_of
from services.gateway.turn.held_media import SMALL_BYTES

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
)
"""What a batch's lines may ask for."""
_CONTINUES = "/v1/responses"
MAX_CUSTOM_ID_CHARS = 512
EXPIRED = BatchError("batch_expired", "This request could not be executed before the completion window expired.")
CANCELLED = BatchError("batch_cancelled", "This request was not executed, since the batch was cancelled.")
KEY_REVOKED = BatchError("key_revoked", "The API key that created the batch was revoked or has expired.")
TOO_OFTEN = BatchError("request_failed", "This request failed too often.")


class WrongLineError(Exception):
    def __init__(self, code: str, message: str, param: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True)
class InputLine:
    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class OutputLine:
    """`json` ends with a newline. `is_error`: it belongs into the error file."""

    json: bytes
    is_error: bool


def later_bytes(endpoint: str, kept_response_bytes: int) -> int:
    """Return the most that the endpoint adds to a line's body: earlier responses, where it can continue them."""
    return kept_response_bytes if endpoint == _CONTINUES else 0


def parse_line(raw: bytes, endpoint: str, max_text_bytes: int) -> InputLine:
    """Raise WrongLineError. A large line is bounded before it is parsed, as a body is."""
    try:
        if len(raw) > SMALL_BYTES:
            outline_of(raw, max_text_bytes)
    except TooLarge as error:
        raise WrongLineError(error.code, error.message) from None
    try:
        line: object = from_json(raw)
    except ValueError:
        raise WrongLineError("invalid_json_line", "This line is not parseable as valid JSON.") from None
    if not isinstance(line, dict):
        raise WrongLineError("invalid_json_line", "This line is not a JSON object.")
    fields: dict[str, Any] = line
    for name in ("custom_id", "method", "url", "body"):
        if name not in fields:
            raise WrongLineError("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    if unknown := next((name for name in fields if name not in ("custom_id", "method", "url", "body")), None):
        raise WrongLineError("unknown_parameter", f"Unknown parameter: '{unknown[:100]}'.", unknown[:100])
    custom_id, body = fields["custom_id"], fields["body"]
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARS:
        raise WrongLineError(
            "invalid_custom_id", f"'custom_id' must be a text of 1 to {MAX_CUSTOM_ID_CHARS} characters.", "custom_id"
        )
    if fields["method"] != "POST":
        raise WrongLineError("invalid_method", "'method' must be 'POST'.", "method")
    if fields["url"] != endpoint:
        raise WrongLineError("mismatched_url", f"'url' must be the batch's endpoint, '{endpoint}'.", "url")
    if not isinstance(body, dict):
        raise WrongLineError("invalid_type", "'body' must be an object.", "body")
    return InputLine(custom_id, body)


def custom_id_of(raw: bytes) -> str:
    """Return the id of a line that was valid when it was looked at; "" = it is not any more."""
    try:
        line: Any = from_json(raw)
        return str(line["custom_id"])
    except (ValueError, KeyError, TypeError):
        return ""


def answered(custom_id: str, status: int, request_id: str, body: object) -> OutputLine:
    """Return the line of a request that was answered, with whatever status."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _line(custom_id, response, None, is_error=status != 200)


def unanswered(custom_id: str, error: BatchError) -> OutputLine:
    """Return the line of a request that has no answer."""
    return _line(custom_id, None, {"code": error.code, "message": error.message}, is_error=True)


def _line(custom_id: str, response: object, error: object, *, is_error: bool) -> OutputLine:
    line = {
        "id": f"batch_req_{secrets.token_hex(16)}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return OutputLine(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n", is_error)
