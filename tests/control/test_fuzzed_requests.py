"""Whatever schemathesis makes of the OpenAPI document, the control plane answers as documented, and never with 5xx."""

from __future__ import annotations

import asyncio

from tests.control.conftest import ADMIN_KEY, running_control
from tests.fixtures.fuzz import fuzz

EXAMPLES = 4


async def test_no_request_is_answered_otherwise_than_documented(sqlite_url: str) -> None:
    async with running_control(sqlite_url) as control:
        await control.new_key(await control.new_project())
        document = (await control.client.get("/openapi.json")).json()
        seen = await asyncio.to_thread(fuzz, document, control.url, ADMIN_KEY, examples=EXAMPLES)
        assert len(seen) == sum(len(item) for item in document["paths"].values())
        assert seen["POST /admin/v1/organisations"][201]
        assert seen["GET /admin/v1/audit"][200]
