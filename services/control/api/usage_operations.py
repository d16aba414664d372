"""The operations for usage: the operator's, and a tenant's own."""

from __future__ import annotations

from services.common.usage_sums import UsageReply, UsageSumsQuery
from services.control.api import schema
from services.control.api.operation import BASE, Call, Operation, StatusAndBody
from services.control.api.usage_schema import UsageQuery, usage_page
from services.control.usage.report import UsageReport


def usage_operations(report: UsageReport) -> list[Operation]:
    async def everyones(call: Call) -> StatusAndBody:
        query: UsageQuery = call.query
        return 200, await usage_page(report, query, query.project, query.organisation)

    async def own(call: Call) -> StatusAndBody:
        return 200, await usage_page(report, call.query, call.caller.own_project)

    page = schema.Page[UsageReply]
    return [
        Operation(
            "listUsage", "GET", f"{BASE}/usage", "Sum up what was used, and what it cost",
            everyones, {200: page}, query=UsageQuery,
        ),
        Operation(
            "listOwnUsage", "GET", "/v1/usage", "Sum up what the key's own project used, and what it cost",
            own, {200: page}, query=UsageSumsQuery, for_projects=True,
        ),
    ]  # fmt: skip
