"""A record counts what the client was sent, and not what the stages had made by then."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from antiphon.v1 import usage_pb2
from services.common.errors import BadInput
from services.common.usage_stream import USAGE_STREAM
from services.gateway.usage.books import Books
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.realtime.talking import LongStory
from tests.gateway.scripted.control_plane import KEY, limit
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.usage_records import records_so_far, the_record
from tests.gateway.turn.test_limits import Limited, as_key, limited

PLENTY = limit("answer_tokens_per_minute", 1000)


def books_of(running: Limited) -> Books:
    books = running.stages.gateway.gateway.books
    assert books is not None
    return books


async def test_a_whole_answer_that_fails_costs_nothing(store: RedisServer) -> None:
    async with limited(store) as running:
        running.stages.next_calls("thinker", Act("raise", 5, BadInput("no", code="not_this")))
        assert (await running.post()).status_code == 400
        record = await the_record(store)
        assert (record.outcome, record.amounts) == ("not_this", usage_pb2.Amounts())


async def test_a_stream_that_fails_costs_what_came_before(store: RedisServer) -> None:
    async with limited(store) as running:
        running.stages.next_calls("thinker", Act("raise", 5, BadInput("no", code="not_this")))
        told, _ = await running.ask()
        assert (told.error is not None, len(told.token_ids)) == (True, 5)
        amounts = (await the_record(store)).amounts
        assert (amounts.prompt_text_tokens, amounts.completion_text_tokens) == (3, 5)


async def test_a_whole_answer_whose_client_leaves_costs_what_was_made(store: RedisServer) -> None:
    async with limited(store, PLENTY, limit_text_tokens=1) as running:
        running.stages.next_calls("thinker", Act("hang", 5))
        asked = asyncio.create_task(running.post())
        await wait_until(lambda: has_drawn(store, 5))
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        record = await the_record(store)
        assert (record.outcome, record.amounts.completion_text_tokens) == ("cancelled", 5)


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_redis_is_told_what_was_sent_before_a_draw_more_is(store: RedisServer, is_streamed: bool) -> None:
    """So that the record of a gateway that dies has at most a draw less than its client received, and never more."""
    async with limited(store, *([] if is_streamed else [PLENTY]), limit_text_tokens=8) as running:
        books_of(running).heartbeat_s = 3600.0
        running.stages.next_calls("thinker", Act("hang", 20))
        if is_streamed:
            async with aclosing(running.stages.chunks(headers=as_key(KEY))) as chunks:
                received = 0
                async for chunk in chunks:
                    received += sum(len(choice.get("token_ids", ())) for choice in chunk["choices"])
                    if received == 20:
                        break
                await wait_until(lambda: is_told(store, 20 - 8))
        else:
            asked = asyncio.create_task(running.post())
            await wait_until(lambda: has_drawn(store, 8 + 7 + 7))  # the next draw begins with the last but one token
            assert [record.amounts for record in await records_so_far(store)] == [usage_pb2.Amounts()]
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        least = 20 if is_streamed else 14
        assert least <= (await the_record(store)).amounts.completion_text_tokens <= 20


async def test_redis_is_told_soon_that_anything_was_sent(store: RedisServer) -> None:
    """From then on the prompt counts, also where less than a draw is sent for long."""
    async with limited(store, limit_text_tokens=32) as running:
        books_of(running).heartbeat_s = 3600.0
        running.stages.next_calls("thinker", Act("hang", 5))
        async with aclosing(running.stages.chunks(headers=as_key(KEY))) as chunks:
            async for chunk in chunks:
                if any(choice.get("token_ids") for choice in chunk["choices"]):
                    break
            await wait_until(lambda: is_told(store, 1))
            (record,) = await records_so_far(store)
            assert record.amounts.prompt_text_tokens == 3
        await the_record(store)


async def is_told(store: RedisServer, at_least: int) -> bool:
    (record,) = await records_so_far(store)
    assert record.amounts.completion_text_tokens <= 20
    return record.amounts.completion_text_tokens >= at_least


async def has_drawn(store: RedisServer, tokens: int) -> bool:
    async with Redis.from_url(store.url) as redis:
        seconds: Any = await redis.hvals(f"{{{USAGE_STREAM}}}:minute:proj_1:answer_tokens")
        return sum(map(int, seconds)) == tokens


async def test_an_interrupted_voice_costs_the_speech_that_was_sent(store: RedisServer) -> None:
    """It is sent as fast as it is played: the talker had made all of it."""
    story = LongStory(words=3, frames=40)
    async with limited(store, story=story, realtime_lead_s=0.1) as running:
        url = running.stages.gateway.url.replace("http", "ws") + f"/v1/realtime?model={INSTRUCT.name}"
        async with connect(url, compression=None, additional_headers=as_key(KEY)) as socket:
            content = [{"type": "input_text", "text": "hello"}]
            item = {"type": "message", "role": "user", "content": content}
            for event in ({"type": "conversation.item.create", "item": item}, {"type": "response.create"}):
                await socket.send(json.dumps(event))
            heard, done = 0, None
            while done is None:
                event: dict[str, Any] = json.loads(await socket.recv())
                heard += event["type"] == "response.output_audio.delta"
                if heard == 2:
                    await socket.send(json.dumps({"type": "response.cancel"}))
                done = event["response"] if event["type"] == "response.done" else None
        assert done["status"] == "cancelled"
        assert 2 <= heard < story.frames
        record = await the_record(store)
        assert (record.kind, record.outcome, record.amounts.completion_audio_tokens) == ("realtime", "cancelled", heard)
        assert done["usage"]["output_token_details"]["audio_tokens"] == heard
        text_tokens = record.amounts.completion_text_tokens  # it may be cancelled before the last one
        assert 1 <= text_tokens <= len(story.token_ids)
        assert done["usage"]["output_token_details"]["text_tokens"] == text_tokens
