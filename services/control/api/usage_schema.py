"""The queries and pages of usage in the Admin API, and of what gateways ask for a project."""

from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime
from typing import Any

from pydantic import Field

from services.common.errors import BadInput
from services.common.usage_sums import UsageReply, UsageSumsQuery, usage_reply
from services.control.api.schema import Page
from services.control.usage.report import UsageReport, Wanted

_WRONG_CURSOR = "Invalid 'after': it is not the `next_after` of this query."


class UsageQuery(UsageSumsQuery):
    organisation: str | None = Field(default=None, max_length=255, description="only this organisation's id")
    project: str | None = Field(default=None, max_length=255, description="only this project's id")


async def usage_page(
    report: UsageReport, query: UsageSumsQuery, project_id: str | None, organisation_id: str | None = None
) -> Page[UsageReply]:
    """Return the page that the query asks for, of these alone. Raise BadInput where it ends before it begins, or for
    what is no cursor."""
    wanted, place = _wanted(query, project_id, organisation_id), _place(query)
    totals, more = await report.totals(wanted, query.groups, place, query.limit)
    rows = [usage_reply(total.group, total.sums) for total in totals]
    after = base64.urlsafe_b64encode(json.dumps(totals[-1].cursor, default=str).encode()).decode() if more else None
    return Page[UsageReply](data=rows, has_more=more, next_after=after)


def _wanted(query: UsageSumsQuery, project_id: str | None, organisation_id: str | None) -> Wanted:
    first = query.first or datetime.now(UTC).date().replace(day=1)
    if query.end is not None and query.end <= first:
        raise BadInput(f"'to' must be after 'from', which is {first}.", param="to")
    return Wanted(first, query.end, organisation_id, project_id, query.key, query.model)


def _place(query: UsageSumsQuery) -> list[Any] | None:
    """Return where the page begins."""
    if query.after is None:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(query.after.encode("ascii")))
        if "day" in query.groups:
            date.fromisoformat(place[0])
    except (ValueError, TypeError, LookupError, RecursionError):
        raise BadInput(_WRONG_CURSOR, param="after") from None
    # The tenant is a column of its own beside the project's id.
    columns = len(query.groups) + ("project" in query.groups)
    if not isinstance(place, list) or len(place) != columns or not all(_is_text(part) for part in place):
        raise BadInput(_WRONG_CURSOR, param="after")
    return place


def _is_text(part: object) -> bool:
    return isinstance(part, str) and "\x00" not in part
