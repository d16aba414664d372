"""Whatever schemathesis makes of the OpenAPI document, the gateway answers as documented, and never with 5xx."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from antiphon.v1 import common_pb2
from tests.control.conftest import TOKEN, running_control
from tests.fixtures.fuzz import fuzz
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.scripted.stages import scripted_stages

EXAMPLES = 15


def allow_time(case: Any) -> None:
    """Give the request a deadline that a busy machine keeps."""
    timeout = str((case.headers or {}).get("x-request-timeout-ms", ""))
    if timeout.isdigit() and 0 < int(timeout) < 600_000:
        case.headers["x-request-timeout-ms"] = "600000"


async def test_no_request_is_answered_otherwise_than_documented(store: RedisServer, tmp_path: Path) -> None:
    card = common_pb2.ModelCard()
    card.CopyFrom(INSTRUCT)
    card.structures_answers, card.tool_call_token_id = True, 151_657
    async with (
        running_control(f"sqlite:///{tmp_path}/control.db", tenant_batches=10_000, tenant_files=10_000) as control,
        scripted_stages(
            store.url,
            card=card,
            request_timeout_s=600,
            object_store_url=f"file://{tmp_path}/objects",
            batches_address=control.address,
            control_token=SecretStr(TOKEN),
        ) as stages,
    ):
        document = (await stages.gateway.client.get("/openapi.json")).json()
        seen = await asyncio.to_thread(
            fuzz, document, stages.gateway.url, API_KEY, examples=EXAMPLES, prepare=allow_time
        )
        assert len(seen) == sum(len(item.keys() - {"servers"}) for item in document["paths"].values())
        for path in ("chat/completions", "audio/speech", "audio/transcriptions", "responses", "files"):
            operation = f"POST /v1/{path}"
            assert seen[operation][200], operation
            assert seen[operation][400], operation
        await wait_until(stages.clean)
