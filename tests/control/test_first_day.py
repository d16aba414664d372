"""The control plane, a gateway and Redis together: terms reach the gateway, and what it served is on the bill."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from tests.control.conftest import TOKEN, RunningControl, running_control
from tests.fixtures.redis import RedisServer, redis_server
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.stages import Stages, scripted_stages
from tests.gateway.scripted.story import Story

__all__ = ["redis_server"]

CHAT = "/v1/chat/completions"
MICROS_A_TOKEN = 3


@asynccontextmanager
async def everything(
    database_url: str, store_url: str, tmp_path: Path, story: Story | None = None, **more: Any
) -> AsyncGenerator[tuple[RunningControl, Stages]]:
    """`more` are settings of the control plane."""
    async with running_control(database_url, redis_url=store_url, **more) as control:
        settings: dict[str, Any] = {
            "api_key": "",
            "control_address": control.address,
            "control_token": SecretStr(TOKEN),
            "control_cache_file": tmp_path / "tenants",
            "limit_text_tokens": 4,
        }
        # A gateway is not ready before it has heard of the control plane.
        async with scripted_stages(store_url, story, workers=1, **settings) as stages:
            yield control, stages


async def test_a_limit_holds_and_the_bill_is_what_clients_received(
    database_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    async with everything(database_url, redis_server.url, tmp_path) as (control, stages):
        for kind in ("prompt_text_tokens", "completion_text_tokens"):
            await control.post("/prices", {"kind": kind, "per_million": str(MICROS_A_TOKEN)})
        project, others = await control.new_project("acme", "prod"), await control.new_project("corp", "prod")
        await control.put(f"/projects/{project}/terms", {"limits": {"requests_per_day": {"amount": 3}}})
        key, other = await control.new_key(project), await control.new_key(others)
        client = stages.gateway.client
        await wait_until(lambda: is_known(client, other["secret"]))

        answers = [await ask(client, key["secret"]) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[3].json()["error"]["code"] == "insufficient_quota"
        assert (await ask(client, other["secret"])).status_code == 200
        tokens = sum(answer.json()["usage"]["total_tokens"] for answer in answers[:3])
        assert tokens > 0

        async def rows() -> dict[str, Any]:
            return {row["project_id"]: row for row in (await control.get("/usage?group=project"))["data"]}

        async def all_are_there() -> bool:
            found = await rows()
            return {name: row["requests"] for name, row in found.items()} == {project: 3, others: 1}

        await wait_until(all_are_there)
        mine = (await rows())[project]
        assert (mine["tokens"], mine["cost_micros"]) == (tokens, tokens * MICROS_A_TOKEN)


async def test_a_cut_answer_is_billed_to_the_token(
    database_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    async with everything(database_url, redis_server.url, tmp_path) as (control, stages):
        project = await control.new_project()
        key = await control.new_key(project)
        most = len(stages.story.token_ids) // 2
        await control.put(f"/keys/{key['id']}/terms", {"limits": {"answer_tokens_per_minute": {"amount": most}}})
        client = stages.gateway.client
        books = stages.gateway.gateway.books
        assert books is not None
        await wait_until(lambda: key["id"] in books.terms.by_subject)  # they come after the key
        answer = (await ask(client, key["secret"])).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["antiphon_limit"] == "answer_tokens_per_minute"
        received = answer["usage"]["completion_tokens"]
        assert most - 4 < received <= most

        async def is_billed() -> bool:
            rows = (await control.get("/usage?group=key"))["data"]
            return [(row["key_id"], row["completion_text_tokens"]) for row in rows] == [(key["id"], received)]

        await wait_until(is_billed)


async def ask(client: httpx.AsyncClient, secret: str, **more: Any) -> httpx.Response:
    body = {"model": INSTRUCT.name, "messages": [{"role": "user", "content": "Hello"}], **more}
    return await client.post(CHAT, json=body, headers={"authorization": f"Bearer {secret}"})


async def is_known(client: httpx.AsyncClient, secret: str) -> bool:
    return (await client.get("/v1/models", headers={"authorization": f"Bearer {secret}"})).status_code == 200
