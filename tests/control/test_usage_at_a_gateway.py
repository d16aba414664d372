"""GET /v1/usage at a gateway: a tenant reads there what the control plane would show it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from services.cli.admin_client import AdminClient
from tests.control.conftest import TOKEN, RunningControl
from tests.control.test_usage import JANUARY, add, pages
from tests.control.usage_records import record
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import running_gateway

GATEWAY_KEY = "the-gateways-own-key"


async def test_a_gateway_shows_a_tenant_its_own_usage(
    control: RunningControl, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    mine, theirs = await control.new_project("acme", "prod"), await control.new_project("corp", "prod")
    reader = await control.new_key(mine, "reader", scopes=["admin_read"])
    caller = await control.new_key(mine, "caller")
    spoken = {"prompt_audio_tokens": 7, "completion_audio_tokens": 2, "audio_in_ms": 80, "media_bytes": 5}
    own: dict[str, Any] = {"project_id": mine, "tenant": "acme.prod"}
    await add(
        database_url,
        [
            record("1", **own, key_id=caller["id"], amounts=spoken, cost_micros=1_500_000),
            record("2", **own, amounts={"prompt_text_tokens": 10}, derailment="stall", spoken_again=2),
            record("3", project_id=theirs, tenant="corp.prod", key_id="key_x"),
            record("table", project_id="", organisation_id="", tenant="acme.prod", key_id=""),
        ],
    )
    settings: dict[str, Any] = {
        "control_address": control.address,
        "control_token": SecretStr(TOKEN),
        "usage_spool_dir": tmp_path,
    }
    async with running_gateway(redis_url, api_key=GATEWAY_KEY, **settings) as gateway:

        def at_the_gateway(secret: str) -> httpx.AsyncClient:
            return httpx.AsyncClient(
                base_url=gateway.url,
                headers={"authorization": f"Bearer {secret}"},
                event_hooks=gateway.client.event_hooks,
                timeout=HANGS_AFTER_S,
            )

        async with (
            at_the_gateway(reader["secret"]) as here,
            at_the_gateway(caller["secret"]) as without_the_scope,
            control.as_key(reader["secret"]) as there,
        ):

            async def knows_the_key() -> bool:
                return (await here.get("/v1/usage")).status_code == 200

            await wait_until(knows_the_key)
            for query in ("", "&group=", "&group=day,project,key,model&limit=1", "&model=no"):
                path = f"/v1/usage?{JANUARY}{query}"
                assert await pages(here, path) == await pages(there, path)
            (row,) = await pages(here, f"/v1/usage?{JANUARY}&group=project")
            assert (row["project_id"], row["requests"], row["tokens"]) == (mine, 2, 19)
            assert (row["cost"], row["derailed_requests"], row["spoken_again"]) == ("1.5", 1, 2)

            assert await asyncio.to_thread(_told_the_cli, gateway.url, reader["secret"]) == [row]

            backwards = "from=2031-02-01&to=2031-01-01"
            for query in ("group=week", backwards, "after=eA==", "limit=0", "key=%00", "project=x"):
                answers = [await client.get(f"/v1/usage?{query}") for client in (here, there)]
                assert [answer.status_code for answer in answers] == [400, 400], query
            refused = await without_the_scope.get("/v1/usage")
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
            refused = await gateway.client.get("/v1/usage")
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "project_key_needed")


def _told_the_cli(url: str, secret: str) -> list[Any]:
    """Return what `antiphon usage --own` asks a gateway for."""
    with AdminClient(url, secret) as client:
        return list(client.rows("/v1/usage", {"from": "2031-01-01", "to": "2031-02-01", "group": "project"}))
