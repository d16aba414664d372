"""The fields of POST /v1/files beside the file. A form has texts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from services.common.errors import BadInput
from services.common.http.errors import bad_input_from

MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 30 * 86_400
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
Anchor = Literal["created_at"]
ExpirySeconds = Annotated[int, Field(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)]


class FileFields(BaseModel):
    """`file` is not among them: it is no text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    purpose: Literal["batch", "user_data", "vision"] = Field(
        description="batch: JSONL for POST /v1/batches. user_data or vision: what requests name by its `file_id`"
    )
    anchor: Anchor | None = Field(default=None, alias=_ANCHOR, description="with the seconds, or without them")
    seconds: ExpirySeconds | None = Field(
        default=None, alias=_SECONDS, description="left out: the file stays until it is deleted"
    )

    @model_validator(mode="after")
    def both_or_none(self) -> FileFields:
        if (self.anchor is None) != (self.seconds is None):
            missing = _ANCHOR if self.anchor is None else _SECONDS
            problem = f"Missing required parameter: '{missing}'."
            raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem, "param": missing})
        return self


def file_fields_from(values: Mapping[str, Sequence[str]]) -> FileFields:
    """Return the fields of a form. Raise BadInput that names the field."""
    for name, given in values.items():
        if len(given) > 1:
            raise BadInput(f"Invalid '{name[:100]}': it is there twice. Send it once.", param=name[:100])
    raw = {name: given[0] for name, given in values.items()}
    try:
        return FileFields.model_validate(raw)
    except ValidationError as error:
        raise bad_input_from(error, raw) from None
