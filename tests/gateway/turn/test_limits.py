"""Turns that a limit of their key, project or organisation ends or refuses, on scripted workers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
import httpx
import pytest
import pytest_asyncio

from antiphon.v1 import control_pb2, gateway_pb2, gateway_pb2_grpc, preprocess_pb2
from services.common.channels import open_channel
from services.common.errors import QuotaExceeded, RateLimited
from services.common.grpc_errors import error_from_rpc
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.grpc_port import grpc_port
from tests.gateway.samples import sample
from tests.gateway.scripted.control_plane import KEY, OTHER_KEY, ScriptedControl, limit, price, scripted_control
from tests.gateway.scripted.stages import CHAT, HEARD, HELLO, SPEECH, Stages, Told, scripted_stages
from tests.gateway.scripted.story import CODEBOOKS, Story
from tests.gateway.scripted.usage_records import count_of, forget_usage, the_record, usage_records

STORY = Story(words=40, frames=30)
TEXT_DRAW, SPEECH_DRAW = 4, 3


@dataclass
class Limited:
    """Scripted stages, whose gateway follows a control plane with these terms."""

    stages: Stages
    control: ScriptedControl
    store: RedisServer

    async def ask(self, messages: list[Any] = HELLO, *, key: str = KEY, **fields: Any) -> tuple[Told, str]:
        """Return the answer, and the limit that the last chunk names."""
        told, named = Told(), ""
        async for chunk in self.stages.chunks(messages, headers=as_key(key), **fields):
            told.add(chunk)
            named = chunk.get("antiphon_limit", named)
        return told, named

    async def post(self, messages: list[Any] = HELLO, *, key: str = KEY, **fields: Any) -> httpx.Response:
        body = {"model": INSTRUCT.name, "messages": messages, **fields}
        return await self.stages.gateway.client.post(CHAT, json=body, headers=as_key(key))


def as_key(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@asynccontextmanager
async def limited(
    store: RedisServer, *limits: control_pb2.Limit, subject: str = "proj_1", story: Story = STORY, **more: Any
) -> AsyncGenerator[Limited]:
    """`limits` are the subject's; `more` are settings of the gateway."""
    await forget_usage(store)
    async with scripted_control() as control:
        control.limit(subject, *limits)
        settings: dict[str, Any] = {"limit_text_tokens": TEXT_DRAW, "limit_audio_ms": 80 * SPEECH_DRAW, **more}
        async with scripted_stages(store.url, story, **control.settings, **settings) as stages:
            yield Limited(stages, control, store)
            await wait_until(stages.clean)


@pytest_asyncio.fixture
async def told_terms(store: RedisServer) -> AsyncGenerator[Limited]:
    async with limited(store) as running:
        yield running


@pytest.mark.parametrize("tokens", [1, 8, 10, 40])
async def test_a_text_ends_exactly_at_its_limit(store: RedisServer, tokens: int) -> None:
    async with limited(store, limit("answer_tokens_per_minute", tokens)) as running:
        told, named = await running.ask()
        assert (told.token_ids, told.error) == (STORY.token_ids[:tokens], None)
        assert (told.finish_reason, named) == ("length", "answer_tokens_per_minute")
        record = await the_record(store)
        assert (record.outcome, record.limit) == ("limit", "answer_tokens_per_minute")
        assert (record.amounts.prompt_text_tokens, record.amounts.completion_text_tokens) == (3, tokens)
        told, _ = await running.ask(key=OTHER_KEY)  # the limit is the project's
        assert told.error is not None
        assert (told.error["code"], told.error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
        assert "project's limit answer_tokens_per_minute" in told.error["message"]
        assert len(await usage_records(store)) == 1


async def test_an_answer_within_its_limits_gives_back_what_it_did_not_use(store: RedisServer) -> None:
    limits = limit("answer_tokens_per_minute", 100), limit("tokens_per_month", 100)
    async with limited(store, *limits, subject="org_1") as running:
        for asked in range(2):
            told, named = await running.ask()
            assert (told.token_ids, told.finish_reason, named) == (STORY.token_ids, "stop", "")

            async def settled(tokens: int = 44 * (asked + 1)) -> bool:
                return await count_of(store, "org_1", "tokens") == tokens

            await wait_until(settled)
        told, named = await running.ask()  # 12 of 100 tokens are left, the prompt takes 3 of them
        assert (told.token_ids, named) == (STORY.token_ids[:9], "tokens_per_month")


@pytest.mark.parametrize("frames", [1, 7, 12])
async def test_speech_ends_exactly_at_its_limit(store: RedisServer, frames: int) -> None:
    async with limited(store, limit("audio_out_ms_per_minute", 80 * frames), subject="key_1") as running:
        told, named = await running.ask(**SPEECH)
        assert told.codes == STORY.codes[: frames * CODEBOOKS]
        assert told.token_ids == STORY.token_ids
        assert (told.finish_reason, named, told.error) == ("length", "audio_out_ms_per_minute", None)
        amounts = (await the_record(store)).amounts
        assert (amounts.completion_audio_tokens, amounts.audio_out_ms) == (frames, 80 * frames)
        told, _ = await running.ask(**SPEECH)
        assert told.error is not None
        told, _ = await running.ask()  # without speech it holds for nothing
        assert told.finish_reason == "stop"


async def test_text_and_speech_share_a_quota(store: RedisServer) -> None:
    async with limited(store, limit("tokens_per_day", 30)) as running:
        told, named = await running.ask(HEARD, **SPEECH)
        frames = len(told.codes) // CODEBOOKS
        assert 30 - TEXT_DRAW - SPEECH_DRAW <= 6 + len(told.token_ids) + frames <= 30
        assert told.token_ids == STORY.token_ids[: len(told.token_ids)]
        assert (told.finish_reason, named) == ("length", "tokens_per_day")
        amounts = (await the_record(store)).amounts
        assert (amounts.completion_text_tokens, amounts.completion_audio_tokens) == (len(told.token_ids), frames)
        assert (amounts.prompt_audio_tokens, amounts.audio_in_ms) == (3, 231)


async def test_money_ends_an_answer(store: RedisServer) -> None:
    async with limited(store, limit("money_per_month", 1000)) as running:
        running.control.prices = [price("completion_text_tokens", 50_000_000), price("requests", 100_000_000)]
        running.control.tell()
        await wait_until(lambda: has_prices(running))
        spent = sample("antiphon_gateway_cost_total", tenant="acme.prod")
        told, named = await running.ask()
        assert len(told.token_ids) == (1000 - 100) // 50
        assert named == "money_per_month"
        record = await the_record(store)
        assert record.cost_micros == 1000
        assert sample("antiphon_gateway_cost_total", tenant="acme.prod") - spent == pytest.approx(0.001)
        assert list(record.price_ids) == ["price_completion_text_tokens", "price_requests"]
        told, _ = await running.ask()
        assert told.error is not None
        assert told.error["code"] == "insufficient_quota"


def has_prices(running: Limited) -> bool:
    books = running.stages.gateway.gateway.books
    return books is not None and len(books.prices.prices) == len(running.control.prices)


async def test_a_refused_request_says_which_limit_and_when_to_come_again(store: RedisServer) -> None:
    async with limited(
        store, limit("requests_per_minute", 1), limit("requests_per_day", 9), subject="key_1"
    ) as running:
        first = await running.post()
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-requests"] == "1"
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        second = await running.post()
        assert second.status_code == 429
        error = second.json()["error"]
        assert error["code"] == "rate_limit_exceeded"
        assert "key's limit requests_per_minute" in error["message"]
        assert 1 <= int(second.headers["retry-after"]) <= 60
        assert second.headers["x-ratelimit-remaining-requests"] == "0"
        assert int(second.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 61
        assert (await running.post(key=OTHER_KEY)).status_code == 200


@pytest.mark.parametrize(("kind", "subject"), [("concurrent_requests", "org_1"), ("requests_per_minute", "key_1")])
async def test_more_choices_than_a_limit_ever_allows_are_refused_at_once(
    store: RedisServer, kind: str, subject: str
) -> None:
    async with limited(store, limit(kind, 2), subject=subject) as running:
        refused = await running.post(n=3)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], error["code"]) == (400, "n", "invalid_value")
        assert f"limit {kind} allows 2" in error["message"]
        assert await usage_records(store) == []
        whole = await running.post(n=2)
        assert (whole.status_code, len(whole.json()["choices"])) == (200, 2)


async def test_a_limit_of_no_requests_is_no_matter_of_choices(store: RedisServer) -> None:
    async with limited(store, limit("concurrent_requests", 0)) as running:
        assert (await running.post(n=1)).status_code == 429


async def test_a_long_wait_is_in_the_body_and_not_in_retry_after(store: RedisServer) -> None:
    async with limited(store, limit("requests_per_month", 5)) as running:
        five = control_pb2.Used(requests=5)
        running.control.used["proj_1"] = control_pb2.SubjectUsed(subject="proj_1", day=five, month=five)
        refused = await running.post(stream=True)
        assert refused.status_code == 429
        assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("60", "false")
        error = refused.json()["error"]
        assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
        assert "It begins anew in" in error["message"]
        assert await usage_records(store) == []


async def test_a_given_text_takes_no_answer_tokens(store: RedisServer) -> None:
    async with limited(store, limit("answer_tokens_per_minute", 0)) as running:
        body = {"model": INSTRUCT.name, "input": "Say this.", "voice": "ethan", "response_format": "pcm"}
        spoken = await running.stages.gateway.client.post("/v1/audio/speech", json=body, headers=as_key(KEY))
        assert spoken.content == running.stages.story.pcm
        assert (await running.post()).status_code == 429


async def test_the_events_of_a_given_text_s_speech_name_the_limit_that_cut_it(store: RedisServer) -> None:
    async with limited(store, limit("audio_out_ms_per_minute", 160)) as running:
        body = {"model": INSTRUCT.name, "input": "Say this.", "response_format": "pcm", "stream_format": "sse"}
        spoken = await running.stages.gateway.client.post("/v1/audio/speech", json=body, headers=as_key(KEY))
        last = json.loads(spoken.text.rstrip().rpartition("data: ")[2])
        assert (last["type"], last["finish_reason"]) == ("speech.audio.done", "length")
        assert last["antiphon_limit"] == "audio_out_ms_per_minute"
        assert last["usage"]["output_tokens"] == 2


async def test_a_prompt_over_the_limit_reaches_no_client(store: RedisServer) -> None:
    async with limited(store, limit("prompt_tokens_per_minute", 5)) as running:
        assert (await running.post()).status_code == 200
        refused = await running.post()  # the prompt is known when the thinker has rendered it
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["x-ratelimit-remaining-tokens"] == "2"
        too_large = await running.post(HEARD)
        assert "Send a smaller one" in too_large.json()["error"]["message"]
        await wait_until(lambda: has_records(store, 3))
        outcomes = [(record.outcome, record.amounts.prompt_text_tokens) for record in await usage_records(store)]
        assert sorted(outcomes) == [("ok", 3), ("rate_limit_exceeded", 0), ("rate_limit_exceeded", 0)]


async def has_records(store: RedisServer, count: int) -> bool:
    return len(await usage_records(store)) == count


@pytest.mark.parametrize(
    ("terms", "fields", "status", "code", "param"),
    [
        ({"models": ["another"]}, {}, 403, "model_not_allowed", "model"),
        ({"voices": ["Chelsie"]}, SPEECH, 403, "voice_not_allowed", "audio.voice"),
    ],
)
async def test_models_and_voices_that_are_not_granted_are_refused(
    store: RedisServer, terms: dict[str, Any], fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    async with limited(store) as running:
        running.control.limit("org_1", **terms)
        running.control.tell()

        async def refused() -> bool:
            return (await running.post(**fields)).status_code == status

        await wait_until(refused)
        error = (await running.post(**fields)).json()["error"]
        assert (error["code"], error["param"]) == (code, param)


@pytest.mark.parametrize(("kind", "most"), [("media_bytes_per_request", 2), ("media_ms_per_request", 230)])
async def test_too_much_media_is_refused(store: RedisServer, kind: str, most: int) -> None:
    async with limited(store, limit(kind, most)) as running:
        refused = await running.post(HEARD)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "media_limit_exceeded")
        assert kind in refused.json()["error"]["message"]
        assert running.stages.calls("thinker") == []


async def test_converse_has_the_limit_in_its_last_event_and_in_the_trailer(store: RedisServer) -> None:
    async with limited(store, limit("tokens_per_day", 13)) as running:
        start = gateway_pb2.ConverseStart(
            model=INSTRUCT.name,
            messages=[preprocess_pb2.Message(role="user", parts=[preprocess_pb2.Part(text="hello")])],
        )
        async with grpc_port(running.stages.gateway) as address, open_channel(address) as channel:
            stub = gateway_pb2_grpc.GatewayStub(channel)
            asked = [gateway_pb2.ConverseRequest(start=start)]
            metadata = (("authorization", f"Bearer {KEY}"),)
            told = [event async for event in stub.Converse(iter(asked), metadata=metadata)]
            assert told[-1].done.limit == "tokens_per_day"
            assert sum(len(event.text.token_ids) for event in told) == 10
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                [event async for event in stub.Converse(iter(asked), metadata=metadata)]
            assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            error = error_from_rpc(failed.value, "gateway")
            assert isinstance(error, QuotaExceeded)
            assert isinstance(error, RateLimited)


async def test_a_whole_answer_names_its_limit(store: RedisServer) -> None:
    async with limited(store, limit("answer_tokens_per_minute", 5)) as running:
        answer = (await running.post()).json()
        assert answer["antiphon_limit"] == "answer_tokens_per_minute"
        assert answer["usage"]["completion_tokens"] == 5
        assert json.dumps(answer["choices"][0]["finish_reason"]) == '"length"'
