"""Requests with an Idempotency-Key, over raw HTTP and with OpenAI's own client, on scripted workers."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
import httpx2
import openai
import pytest
import pytest_asyncio

from services.common.errors import BadInput
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import CHAT, HELLO, SPEECH, Stages, scripted_stages
from tests.gateway.scripted.usage_records import forget_usage, usage_records

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHERS_KEY = "the-key-of-another-tenant"
SAY, WRITE = "/v1/audio/speech", "/v1/audio/transcriptions"
ASK: dict[str, Any] = {"model": INSTRUCT.name, "messages": HELLO}
SOUND = bytes(range(256)) * 40 + b"\r\n--\r\n"
FILE = ("speech.wav", SOUND, "audio/wav")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stages(store: RedisServer) -> AsyncIterator[Stages]:
    others = {"another": [hashlib.sha256(OTHERS_KEY.encode()).hexdigest()]}
    async with scripted_stages(store.url, tenant_keys=others, usage_records="on") as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def stages(module_stages: Stages, store: RedisServer) -> AsyncIterator[Stages]:
    await forget_usage(store)
    for worker in module_stages.workers:
        worker.calls.clear()
    yield module_stages
    await wait_until(module_stages.clean)


def new_key() -> dict[str, str]:
    return {"idempotency-key": uuid.uuid4().hex}


async def post(stages: Stages, key: dict[str, str], **fields: Any) -> httpx.Response:
    return await stages.gateway.client.post(CHAT, json={**ASK, **fields}, headers=key)


def is_replayed(response: httpx.Response) -> bool:
    return response.headers.get("idempotent-replayed") == "true"


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def billed(store: RedisServer, turns: int) -> None:
    """Wait for so many usage records, and assert that there are no more."""

    async def there() -> bool:
        return len(await usage_records(store)) >= turns

    await wait_until(there)
    assert len(await usage_records(store)) == turns


@pytest.mark.parametrize("fields", [{}, SPEECH, {"n": 2}])
async def test_a_response_is_sent_again(stages: Stages, store: RedisServer, fields: dict[str, Any]) -> None:
    key = new_key()
    first, second = [await post(stages, key, **fields) for _ in range(2)]
    assert (first.status_code, is_replayed(first)) == (200, False)
    assert (second.status_code, is_replayed(second)) == (200, True)
    assert second.content == first.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(stages.calls("thinker")) == fields.get("n", 1)
    await billed(store, fields.get("n", 1))


async def test_a_stream_is_sent_again(stages: Stages, store: RedisServer) -> None:
    key = new_key()
    first, second = [await post(stages, key, stream=True, **SPEECH) for _ in range(2)]
    assert first.text.endswith("data: [DONE]\n\n")
    assert (second.content, is_replayed(second)) == (first.content, True)
    assert second.headers["content-type"].startswith("text/event-stream")
    await billed(store, 1)


@pytest.mark.parametrize("more", [{}, {"response_format": "wav"}, {"stream_format": "sse"}])
async def test_speech_is_sent_again(stages: Stages, store: RedisServer, more: dict[str, Any]) -> None:
    key, body = new_key(), {"model": INSTRUCT.name, "input": "Hello", **more}
    first, second = [await stages.gateway.client.post(SAY, json=body, headers=key) for _ in range(2)]
    assert first.status_code == 200
    assert (second.content, is_replayed(second)) == (first.content, True)
    await billed(store, 1)


async def test_a_transcription_is_sent_again_though_its_boundary_is_another(stages: Stages, store: RedisServer) -> None:
    key, answers = new_key(), list[httpx.Response]()
    for _ in range(2):
        answers.append(await stages.gateway.client.post(WRITE, files={"file": FILE}, headers=key))
    sent = {answer.request.headers["content-type"] for answer in answers}
    assert len(sent) == 2
    assert [is_replayed(answer) for answer in answers] == [False, True]
    other = await stages.gateway.client.post(WRITE, files={"file": ("speech.wav", SOUND[1:])}, headers=key)
    assert code_of(other) == (400, "idempotency_key_reused")
    await billed(store, 1)


async def test_another_request_with_the_same_key_is_refused(stages: Stages) -> None:
    key = new_key()
    assert (await post(stages, key)).status_code == 200
    other = await post(stages, key, seed=1)
    assert code_of(other) == (400, "idempotency_key_reused")
    assert other.json()["error"]["param"] == "Idempotency-Key"
    elsewhere = await stages.gateway.client.post(SAY, json={"input": "Hello"}, headers=key)
    assert code_of(elsewhere) == (400, "idempotency_key_reused")


async def test_a_key_is_the_tenants_own(stages: Stages, store: RedisServer) -> None:
    key = new_key()
    await post(stages, key)
    foreign = await post(stages, {**key, "authorization": f"Bearer {OTHERS_KEY}"})
    assert (foreign.status_code, is_replayed(foreign)) == (200, False)
    await billed(store, 2)


async def test_a_request_that_runs_is_answered_later(stages: Stages, store: RedisServer) -> None:
    key = new_key()
    with stages.held("thinker"):
        first = asyncio.create_task(post(stages, key))
        await wait_until(lambda: stages.calls("thinker"))
        second = await post(stages, key)
        assert code_of(second) == (409, "idempotency_key_in_use")
        assert int(second.headers["retry-after"]) >= 1
        assert "x-should-retry" not in second.headers
        other = await post(stages, key, seed=1)
        assert code_of(other) == (400, "idempotency_key_reused")
    assert is_replayed(await answered(stages, key))
    assert not is_replayed(await first)
    await billed(store, 1)


async def answered(stages: Stages, key: dict[str, str], **fields: Any) -> httpx.Response:
    """Send a request again until it has run."""
    while (response := await post(stages, key, **fields)).status_code == 409:
        await asyncio.sleep(0.02)
    return response


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_runs_on_when_its_client_leaves(stages: Stages, store: RedisServer, stream: bool) -> None:
    key, fields = new_key(), {**SPEECH, "stream": stream}
    with stages.held("talker"):
        async with httpx.AsyncClient(base_url=stages.gateway.url, headers=stages.gateway.client.headers) as client:
            leaving = asyncio.create_task(client.post(CHAT, json={**ASK, **fields}, headers=key))
            await wait_until(lambda: stages.calls("talker"))
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
    response = await answered(stages, key, **fields)
    assert (response.status_code, is_replayed(response)) == (200, True)
    assert "w7" in response.text
    assert len(stages.calls("thinker")) == 1
    await billed(store, 1)


async def test_without_a_key_a_client_that_leaves_ends_its_turn(stages: Stages, store: RedisServer) -> None:
    stages.next_calls("thinker", Act("hang", 2))
    async with aclosing(stages.chunks(**SPEECH)) as chunks:
        async for _ in chunks:
            break
    await wait_until(stages.clean)
    await billed(store, 1)


async def test_a_refused_request_frees_its_key(stages: Stages) -> None:
    key = new_key()
    refused = await post(stages, key, temperature=9)
    assert refused.status_code == 400
    again = await post(stages, key)
    assert (again.status_code, is_replayed(again)) == (200, False)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_request_frees_its_key(stages: Stages, stream: bool) -> None:
    key, fields = new_key(), {**SPEECH, "stream": stream}
    stages.next_calls("talker", Act("raise", 4, BadInput("it breaks")))
    failed = await post(stages, key, **fields)
    assert "it breaks" in failed.text
    again = await post(stages, key, **fields)
    assert (again.status_code, is_replayed(again)) == (200, False)
    assert is_replayed(await post(stages, key, **fields))


async def test_a_speech_file_that_breaks_frees_its_key(stages: Stages) -> None:
    key, body = new_key(), {"input": "Hello", "response_format": "pcm"}
    stages.next_calls("talker", Act("raise", 4, BadInput("it breaks")))
    with pytest.raises(httpx.RemoteProtocolError):
        await stages.gateway.client.post(SAY, json=body, headers=key)
    again = await stages.gateway.client.post(SAY, json=body, headers=key)
    assert (again.status_code, is_replayed(again)) == (200, False)


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_what_is_no_key_is_refused(stages: Stages, key: str) -> None:
    refused = await post(stages, {"idempotency-key": key})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "Idempotency-Key"


async def test_openais_client_retries_with_the_same_key(stages: Stages, store: RedisServer) -> None:
    """The connection breaks after the request was sent: the client sends it again."""

    class Breaks(httpx2.AsyncHTTPTransport):
        keys: list[str] = []  # noqa: RUF012  # of this test alone

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            self.keys.append(request.headers["idempotency-key"])
            response = await super().handle_async_request(request)
            if len(self.keys) == 1:
                await response.aread()
                raise httpx2.ReadError("broken", request=request)
            return response

    http_client = httpx2.AsyncClient(transport=Breaks())
    async with openai.AsyncOpenAI(
        base_url=stages.gateway.url + "/v1", api_key=API_KEY, max_retries=3, http_client=http_client
    ) as client:
        answer = await client.chat.completions.create(**ASK, extra_headers={"Idempotency-Key": uuid.uuid4().hex})
    assert answer.choices[0].message.content == stages.story.text
    assert len(Breaks.keys) == 2
    assert len(set(Breaks.keys)) == 1
    await billed(store, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_gives_each_request_a_key(stages: Stages, store: RedisServer, stream: bool) -> None:
    """OpenAI's clients make keys of their own once they know the header's name, also for streams and forms."""
    async with openai.AsyncOpenAI(base_url=stages.gateway.url + "/v1", api_key=API_KEY) as client:
        client._idempotency_header = "Idempotency-Key"  # pyright: ignore[reportPrivateUsage]
        for _ in range(2):
            if stream:
                texts = [
                    chunk.choices[0].delta.content or ""
                    async for chunk in await client.chat.completions.create(**ASK, stream=True)
                ]
                assert "".join(texts) == stages.story.text
            else:
                answer = await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name)
                assert answer.text == stages.story.text
    await billed(store, 2)


async def test_a_response_that_is_too_large_uses_its_key_up(redis_server: RedisServer) -> None:
    async with scripted_stages(redis_server.url, workers=1, idempotency_response_bytes=1024) as stages:
        key = new_key()
        stream = await post(stages, key, stream=True, **SPEECH)
        assert stream.text.endswith("data: [DONE]\n\n")
        assert len(stream.content) > 1024
        again = await post(stages, key, stream=True, **SPEECH)
        assert code_of(again) == (409, "idempotent_response_too_large")
        assert again.headers["x-should-retry"] == "false"
        assert len(stages.calls("thinker")) == 1
        await wait_until(stages.clean)


async def test_the_header_means_nothing_where_nothing_is_kept(redis_server: RedisServer) -> None:
    async with scripted_stages(redis_server.url, workers=1, idempotency_s=0) as stages:
        key = new_key()
        answers = [await post(stages, key) for _ in range(2)]
        assert [is_replayed(answer) for answer in answers] == [False, False]
        await wait_until(stages.clean)


async def test_a_key_needs_redis(redis_server: RedisServer) -> None:
    async with scripted_stages(redis_server.url, workers=1) as stages:
        redis_server.kill()
        refused = await post(stages, new_key())
        assert code_of(refused) == (503, "idempotency_unavailable")
        redis_server.start()

        async def is_served() -> bool:
            return (await post(stages, new_key())).status_code == 200

        await wait_until(is_served)
        await wait_until(stages.clean)


async def test_a_request_goes_on_while_redis_is_away(redis_server: RedisServer) -> None:
    async with scripted_stages(redis_server.url, workers=1) as stages:
        key = new_key()
        with stages.held("talker"):
            running = asyncio.create_task(post(stages, key, **SPEECH))
            await wait_until(lambda: stages.calls("talker"))
            redis_server.kill()
        assert (await running).status_code == 200
        redis_server.start()

        async def runs_anew() -> bool:
            response = await post(stages, key, **SPEECH)
            return response.status_code == 200 and not is_replayed(response)

        await wait_until(runs_anew)
        await wait_until(stages.clean)


async def test_of_many_requests_at_two_gateways_one_runs(redis_server: RedisServer) -> None:
    async with (
        scripted_stages(redis_server.url, workers=1) as one,
        scripted_stages(redis_server.url, workers=1) as other,
    ):
        key = new_key()
        many = await asyncio.gather(*(post(gateway, key) for gateway in (one, other) for _ in range(20)))
        kinds = Counter((response.status_code, is_replayed(response)) for response in many)
        assert kinds.pop((200, False)) == 1
        assert set(kinds) <= {(200, True), (409, False)}
        (body,) = {response.content for response in many if response.status_code == 200}
        for gateway in (one, other):
            again = await post(gateway, key)
            assert (again.content, is_replayed(again)) == (body, True)
        assert len(one.calls("thinker")) + len(other.calls("thinker")) == 1
        await asyncio.gather(wait_until(one.clean), wait_until(other.clean))
