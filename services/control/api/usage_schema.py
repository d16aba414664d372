"""The query and the rows of usage in the Admin API."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from services.common.errors import BadInput
from services.control.api.schema import Body, Page, Reply
from services.control.api.terms_schema import decimal_text
from services.control.usage.records import tokens_of
from services.control.usage.report import Group, UsageTotal, Wanted

GROUPS: tuple[Group, ...] = get_args(Group)
_WRONG_CURSOR = "Invalid 'after': it is not the `next_after` of this query."


def _known_groups(text: str) -> str:
    names = text.split(",") if text else []
    if len(set(names)) != len(names) or not set(names) <= set(GROUPS):
        raise ValueError(f"give some of {', '.join(GROUPS)}, each once, with commas between them")
    return text


Day = Annotated[date, Field(ge=date(2000, 1, 1), lt=date(3000, 1, 1))]


class OwnUsageQuery(Body):
    """The usage of one project."""

    group: Annotated[str, AfterValidator(_known_groups)] = Field(
        default="day", max_length=63, description=f'some of {", ".join(GROUPS)}, with commas; "" = one sum'
    )
    first: Day | None = Field(
        default=None, alias="from", description="the first day, of UTC; none = the first of this month"
    )
    end: Day | None = Field(default=None, alias="to", description="the day after the last one; none = no end")
    key: str | None = Field(default=None, max_length=255, description="only this key's id")
    model: str | None = Field(default=None, max_length=255, description="only this model")
    limit: int = Field(default=50, ge=1, le=200, description="rows of a page")
    after: str | None = Field(default=None, max_length=4000, description="`next_after` of the page before")

    @property
    def groups(self) -> list[Group]:
        return [group for group in GROUPS if group in self.group.split(",")]

    def wanted(self, project_id: str | None = None, organisation_id: str | None = None) -> Wanted:
        """Return what the query asks for. Raise BadInput where it ends before it begins."""
        first = self.first or datetime.now(UTC).date().replace(day=1)
        if self.end is not None and self.end <= first:
            raise BadInput(f"'to' must be after 'from', which is {first}.", param="to")
        return Wanted(first, self.end, organisation_id, project_id, self.key, self.model)

    @property
    def place(self) -> list[Any] | None:
        """Return where the page begins. Raise BadInput for what is no cursor."""
        if self.after is None:
            return None
        try:
            place = json.loads(base64.urlsafe_b64decode(self.after.encode("ascii")))
            if "day" in self.groups:
                date.fromisoformat(place[0])
        except (ValueError, TypeError, LookupError, RecursionError):
            raise BadInput(_WRONG_CURSOR, param="after") from None
        # The tenant is a column of its own beside the project's id.
        columns = len(self.groups) + ("project" in self.groups)
        if not isinstance(place, list) or len(place) != columns or not all(_is_text(part) for part in place):
            raise BadInput(_WRONG_CURSOR, param="after")
        return place


class UsageQuery(OwnUsageQuery):
    organisation: str | None = Field(default=None, max_length=255, description="only this organisation's id")
    project: str | None = Field(default=None, max_length=255, description="only this project's id")


class UsageReply(Reply):
    """Sums of ended turns. What was not grouped by is null."""

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


def usage_page(totals: Sequence[UsageTotal], more: bool) -> Page[UsageReply]:
    rows = [
        UsageReply.model_validate(
            {
                **total.group,
                **total.sums,
                "tokens": tokens_of(total.sums),
                "cost": decimal_text(total.sums["cost_micros"]),
            }
        )
        for total in totals
    ]
    after = base64.urlsafe_b64encode(json.dumps(totals[-1].cursor, default=str).encode()).decode() if more else None
    return Page[UsageReply](data=rows, has_more=more, next_after=after)


def _is_text(part: object) -> bool:
    return isinstance(part, str) and "\x00" not in part
