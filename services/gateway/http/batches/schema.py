"""The body of POST /v1/batches."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from services.gateway.http.files.fields import Anchor, ExpirySeconds

_WINDOW = re.compile(r"(?P<count>[1-9][0-9]{0,4})(?P<unit>[mh])")
_SECONDS = {"m": 60, "h": 3600}
MAX_WINDOW_S = 7 * 86_400


class ExpiresAfter(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    anchor: Anchor
    seconds: ExpirySeconds


class BatchRequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    input_file_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    endpoint: Literal[
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
    ] = Field(description="what each line asks for")
    completion_window: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}[mh]$")] = Field(
        description="24h, as OpenAI has it, or another time in hours or minutes, at most 168h"
    )
    metadata: (
        dict[
            Annotated[str, Field(max_length=64)],
            Annotated[str, Field(max_length=512)],
        ]
        | None
    ) = Field(default=None, max_length=16)
    output_expires_after: ExpiresAfter | None = Field(
        default=None, description="left out: the batch's files stay until they are deleted"
    )

    @field_validator("completion_window")
    @classmethod
    def is_not_too_long(cls, window: str) -> str:
        if seconds_of(window) > MAX_WINDOW_S:
            problem = "Invalid 'completion_window': it should be at most 168h."
            raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem, "param": "completion_window"})
        return window

    @property
    def window_s(self) -> int:
        return seconds_of(self.completion_window)


def seconds_of(window: str) -> int:
    found = _WINDOW.fullmatch(window)
    return int(found["count"]) * _SECONDS[found["unit"]] if found else 0


def window_of(seconds: int) -> str:
    """Return what a client wrote, or what means the same."""
    return f"{seconds // 3600}h" if seconds % 3600 == 0 else f"{seconds // 60}m"
