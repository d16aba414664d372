"""Sums of usage as gateways and the control plane tell them: a query for those of one project, and their rows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Group = Literal["day", "organisation", "project", "key", "model"]
GROUPS: tuple[Group, ...] = get_args(Group)
MICROS = 1_000_000
"""Of one unit of the prices' currency."""
TOKENS = (
    "prompt_text_tokens",
    "prompt_audio_tokens",
    "prompt_image_tokens",
    "prompt_video_tokens",
    "completion_text_tokens",
    "completion_audio_tokens",
)
"""Cached tokens are among the prompt's, reasoning tokens among the answer's."""


def _known_groups(text: str) -> str:
    names = text.split(",") if text else []
    if len(set(names)) != len(names) or not set(names) <= set(GROUPS):
        raise ValueError(f"give some of {', '.join(GROUPS)}, each once, with commas between them")
    return text


# PostgreSQL has no null characters.
Name = Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]
Day = Annotated[date, Field(ge=date(2000, 1, 1), lt=date(3000, 1, 1))]


class UsageSumsQuery(BaseModel):
    """Which sums of one project. Its fields are texts of a URL's query."""

    model_config = ConfigDict(extra="forbid", strict=False)

    group: Annotated[str, AfterValidator(_known_groups)] = Field(
        default="day", max_length=63, description=f'some of {", ".join(GROUPS)}, with commas; "" = one sum'
    )
    first: Day | None = Field(
        default=None, alias="from", description="the first day, of UTC; none = the first of this month"
    )
    end: Day | None = Field(default=None, alias="to", description="the day after the last one; none = no end")
    key: Name | None = Field(default=None, description="only this key's id")
    model: Name | None = Field(default=None, description="only this model")
    limit: int = Field(default=50, ge=1, le=200, description="rows of a page")
    after: str | None = Field(default=None, max_length=4000, description="`next_after` of the page before")

    @property
    def groups(self) -> list[Group]:
        return [group for group in GROUPS if group in self.group.split(",")]


class UsageReply(BaseModel):
    """Sums of ended turns. What was not grouped by is null."""

    model_config = ConfigDict(protected_namespaces=())

    object: Literal["usage"] = "usage"
    day: date | None = Field(default=None, description="of UTC, on which the turns ended")
    organisation_id: str | None = None
    project_id: str | None = None
    tenant: str | None = Field(default=None, description="the project's name in queues and metrics")
    key_id: str | None = None
    model: str | None = None
    requests: int
    tokens: int = Field(description="of prompts and answers, the audio's included: what quotas count")
    prompt_text_tokens: int
    prompt_audio_tokens: int
    prompt_image_tokens: int
    prompt_video_tokens: int
    cached_tokens: int = Field(description="among those of the prompts")
    completion_text_tokens: int
    reasoning_tokens: int = Field(description="among those of the answers' text")
    completion_audio_tokens: int
    audio_in_ms: int
    audio_out_ms: int
    media_bytes: int
    derailed_requests: int = Field(description="whose speech no longer followed its text, and was ended there")
    spoken_again: int = Field(description="how often speech no longer followed its text, and was spoken again")
    cost_micros: int = Field(description="millionths of the prices' currency")
    cost: str = Field(description="the same as a decimal number")


def usage_reply(group: Mapping[str, Any], sums: Mapping[str, int]) -> UsageReply:
    """Return a row: the values of what it was grouped by, and its sums by the fields' names."""
    return UsageReply.model_validate(
        {**group, **sums, "tokens": tokens_of(sums), "cost": decimal_text(sums["cost_micros"])}
    )


def tokens_of(amounts: Mapping[str, int]) -> int:
    """Return the tokens that quotas count: the prompt's and the answer's, of all kinds."""
    return sum(amounts[name] for name in TOKENS)


def decimal_text(micros: int) -> str:
    """Return millionths as a decimal number: 400000 → "0.4"."""
    text = f"{Decimal(micros) / MICROS:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
