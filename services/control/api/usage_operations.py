"""The operations for usage: the operator's, and a tenant's own."""

from __future__ import annotations

from services.control.api import schema
from services.control.api.operation import BASE, Call, Operation, StatusAndBody
from services.control.api.usage_schema import OwnUsageQuery, UsageQuery, UsageReply, usage_page
from services.control.usage.report import UsageReport


def usage_operations(report: UsageReport) -> list[Operation]:
    async def everyones(call: Call) -> StatusAndBody:
        query: UsageQuery = call.query
        wanted = query.wanted(query.project, query.organisation)
        return 200, usage_page(*await report.totals(wanted, query.groups, query.place, query.limit))

    async def own(call: Call) -> StatusAndBody:
        query: OwnUsageQuery = call.query
        wanted = query.wanted(call.caller.own_project)
        return 200, usage_page(*await report.totals(wanted, query.groups, query.place, query.limit))

    page = schema.Page[UsageReply]
    return [
        Operation(
            "listUsage", "GET", f"{BASE}/usage", "Sum up what was used, and what it cost",
            everyones, {200: page}, query=UsageQuery,
        ),
        Operation(
            "listOwnUsage", "GET", "/v1/usage", "Sum up what the key's own project used, and what it cost",
            own, {200: page}, query=OwnUsageQuery, for_projects=True,
        ),
    ]  # fmt: skip
