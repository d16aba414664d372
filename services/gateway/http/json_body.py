"""JSON bodies."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from services.common.errors import BadInput
from services.common.http.errors import bad_input_from

M = TypeVar("M", bound=BaseModel)


def parse_json(body: bytes | bytearray, kind: type[M]) -> M:
    """Parse and validate `body`. Raise BadInput that names the field as the client wrote it."""
    try:
        raw: object = from_json(body)
    except ValueError:  # not JSON, not UTF-8, half a surrogate pair, or nested too deep
        raise BadInput(
            "The body is not valid JSON. Send a JSON object in UTF-8.",
            code="invalid_json",
        ) from None
    if not isinstance(raw, dict):
        raise BadInput("The body is not a JSON object. Send a JSON object.", code="invalid_json")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise bad_input_from(error, raw) from None
