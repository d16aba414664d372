"""Spoken answers that are sent back by their id alone, on scripted workers and with OpenAI's own client."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from services.common.errors import BadInput
from services.common.redis_client import connect
from services.gateway.kept.answers import KeptAnswers
from services.gateway.kept.redis_store import KeptLimits, RedisKept
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT, MAX_TEXT_BYTES
from tests.gateway.kept.conftest import keys_of
from tests.gateway.scripted.script import Act, E, Script
from tests.gateway.scripted.stages import CHAT, HELLO, SPEECH, Stages, Told, scripted_stages
from tests.gateway.scripted.story import CODEBOOKS

pytestmark = pytest.mark.asyncio(loop_scope="module")
USER: Any = HELLO[0]
OTHERS_KEY = "the-key-of-another-tenant"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stages(store: RedisServer) -> AsyncIterator[Stages]:
    others = {"another": [hashlib.sha256(OTHERS_KEY.encode()).hexdigest()]}
    async with scripted_stages(store.url, tenant_keys=others) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def stages(module_stages: Stages) -> AsyncIterator[Stages]:
    for worker in module_stages.workers:
        worker.calls.clear()
    yield module_stages
    await wait_until(module_stages.clean)


@pytest_asyncio.fixture(loop_scope="module")
async def client(stages: Stages) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=stages.gateway.url + "/v1", api_key=API_KEY, max_retries=0) as made:
        yield made


async def spoken(stages: Stages, **fields: Any) -> dict[str, Any]:
    """Return the `audio` of a whole spoken answer."""
    body = {"model": INSTRUCT.name, "messages": HELLO, **SPEECH, **fields}
    response = await stages.gateway.client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["audio"]


async def asked_with(stages: Stages, *history: dict[str, Any], key: str = API_KEY) -> httpx.Response:
    """Ask with these messages between two of the user. Only this call is left of the stages' calls."""
    for worker in stages.workers:
        worker.calls.clear()
    body = {"model": INSTRUCT.name, "messages": [USER, *history, USER]}
    return await stages.gateway.client.post(CHAT, json=body, headers={"authorization": f"Bearer {key}"})


def read_by_the_model(stages: Stages) -> list[str]:
    """Return the text of each answer in the history of the only call."""
    (call,) = stages.calls("preprocess")
    return ["".join(part.text for part in message.parts) for message in call.messages if message.role == "assistant"]


def by_id(id: Any) -> dict[str, Any]:
    return {"role": "assistant", "audio": {"id": id}}


async def text_of(stages: Stages, id: str) -> str:
    """Return what the model reads where a client sends the id back."""
    response = await asked_with(stages, by_id(id))
    assert response.status_code == 200, response.text
    return read_by_the_model(stages)[0]


async def test_openais_client_sends_an_answer_back_by_its_id(stages: Stages, client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": INSTRUCT.name, **SPEECH}
    first = await client.chat.completions.create(messages=[USER], **ask)
    audio = first.choices[0].message.audio
    assert audio is not None
    assert audio.expires_at > time.time()
    for worker in stages.workers:
        worker.calls.clear()
    second = await client.chat.completions.create(
        messages=[USER, {"role": "assistant", "audio": {"id": audio.id}}, USER], **ask
    )
    assert second.choices[0].message.audio is not None
    assert read_by_the_model(stages) == [stages.story.text]


@pytest.mark.parametrize(
    "form",
    [
        {"content": ""},
        {"content": None},
        {"content": []},
        {"content": [{"type": "text", "text": ""}]},
        {"content": "", "refusal": None, "tool_calls": [], "additional_kwargs": {}},
    ],
)
async def test_langchains_form_and_others(stages: Stages, form: dict[str, Any]) -> None:
    audio = await spoken(stages)
    response = await asked_with(stages, {"role": "assistant", **form, "audio": {"id": audio["id"]}})
    assert response.status_code == 200
    assert read_by_the_model(stages) == [stages.story.text]


@pytest.mark.parametrize("audio", [{"transcript": ""}, {"data": "AAAA"}, {"transcript": None, "expires_at": 5}])
async def test_an_id_beside_an_empty_transcript(stages: Stages, audio: dict[str, Any]) -> None:
    id = (await spoken(stages))["id"]
    response = await asked_with(stages, {"role": "assistant", "audio": {"id": id, **audio}})
    assert response.status_code == 200
    assert read_by_the_model(stages) == [stages.story.text]


async def test_the_text_that_a_client_sends_counts(stages: Stages) -> None:
    unknown = "audio_" + "0" * 32
    history = [
        {"role": "assistant", "content": "mine", "audio": {"id": unknown}},
        {"role": "assistant", "audio": {"id": unknown, "transcript": "spoken"}},
        {"role": "assistant", "content": "", "audio": {"id": unknown, "transcript": "", "expires_at": 5}},
    ]
    response = await asked_with(stages, *history)
    assert response.status_code == 200
    assert read_by_the_model(stages) == ["mine", "spoken", ""]


async def test_many_answers_and_one_twice(stages: Stages) -> None:
    ids = [(await spoken(stages))["id"] for _ in range(3)]
    response = await asked_with(stages, *map(by_id, [*ids, ids[0]]))
    assert response.status_code == 200
    assert read_by_the_model(stages) == [stages.story.text] * 4


async def test_expires_at_is_when_redis_forgets_it(stages: Stages, store: RedisServer) -> None:
    forget_all(store)
    audio = await spoken(stages)
    with store.client() as redis:
        (key,) = (key for key in keys_of("answer", store) if b":value:" in key)
        expires_ms: Any = redis.execute_command("PEXPIRETIME", key)
    assert audio["expires_at"] == expires_ms // 1000


async def test_unknown_expired_and_foreign_ids_are_told_the_same(stages: Stages, store: RedisServer) -> None:
    foreign, expired = [(await spoken(stages))["id"] for _ in range(2)]
    with store.client() as redis:
        name = hashlib.sha256(f"default\0{expired}".encode()).hexdigest()[:32]
        assert redis.pexpire(f"{{antiphon:kept:answer}}:value:{name}", 1)

    async def is_refused() -> bool:
        return (await asked_with(stages, by_id(expired))).status_code == 400

    await wait_until(is_refused)
    told = [
        await asked_with(stages, by_id("audio_never")),
        await asked_with(stages, by_id(expired)),
        await asked_with(stages, by_id(foreign), key=OTHERS_KEY),
        await asked_with(stages, by_id("")),
        await asked_with(stages, by_id("ü" + "x" * 5000)),
    ]
    assert {(response.status_code, response.text) for response in told} == {(400, told[0].text)}
    error = told[0].json()["error"]
    assert (error["param"], error["code"]) == ("messages[1].audio.id", "audio_not_found")
    assert await text_of(stages, foreign) == stages.story.text  # its own tenant still has it


async def test_an_unknown_id_is_named_among_known_ones(stages: Stages) -> None:
    id = (await spoken(stages))["id"]
    response = await asked_with(stages, by_id(id), USER, by_id("audio_never"))
    assert response.json()["error"]["param"] == "messages[3].audio.id"


@pytest.mark.parametrize("id", [None, 5, {"a": 1}])
async def test_an_id_that_is_none_is_refused(stages: Stages, id: Any) -> None:
    response = await asked_with(stages, by_id(id))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[1].audio"


async def test_a_streamed_answer_is_kept_before_its_end_is_told(stages: Stages, client: openai.AsyncOpenAI) -> None:
    id, expires = "", list[int]()
    stream = await client.chat.completions.create(model=INSTRUCT.name, messages=[USER], stream=True, **SPEECH)
    async for chunk in stream:
        audio: Any = chunk.choices[0].delta.model_dump(exclude_none=True).get("audio", {})
        id = audio.get("id", id)
        if "expires_at" in audio:
            expires.append(audio["expires_at"])
            assert await text_of(stages, id) == stages.story.text
    assert len(expires) == 1
    assert expires[0] > time.time()


async def test_an_answer_that_resumes_is_kept_once(stages: Stages, store: RedisServer) -> None:
    forget_all(store)
    stages.next_calls("thinker", Act("cut", 3))
    stages.next_calls("talker", Act("cut", 4))
    audio = await spoken(stages)
    assert len([key for key in keys_of("answer", store) if b":value:" in key]) == 1
    assert await text_of(stages, audio["id"]) == stages.story.text


async def test_an_answer_that_a_limit_cut_is_kept(stages: Stages) -> None:
    audio = await spoken(stages, talker={"max_frames": 2})
    assert await text_of(stages, audio["id"]) == audio["transcript"] == stages.story.text


async def test_what_a_client_got_before_it_left_is_kept(stages: Stages) -> None:
    stages.next_calls("thinker", Act("hang", 4))
    id, told = "", Told()
    async with aclosing(stages.chunks(**SPEECH)) as chunks:
        async for chunk in chunks:
            told.add(chunk)
            for choice in chunk["choices"]:
                id = choice["delta"].get("audio", {}).get("id", id)
            if (len(told.token_ids), len(told.codes)) == (4, 4 * CODEBOOKS):
                break

    async def is_kept() -> bool:
        return (await asked_with(stages, by_id(id))).status_code == 200

    await wait_until(is_kept)
    assert await text_of(stages, id) == told.text == "w0 w1 w2 w3 "


async def test_an_answer_is_kept_while_it_is_still_spoken(stages: Stages) -> None:
    stages.next_calls("talker", Act("hang", 4))
    id, told = "", Told()
    async with aclosing(stages.chunks(**SPEECH)) as chunks:
        async for chunk in chunks:
            told.add(chunk)
            for choice in chunk["choices"]:
                id = choice["delta"].get("audio", {}).get("id", id)
            if (told.text, len(told.codes)) == (stages.story.text, 4 * CODEBOOKS):
                break

        async def is_kept() -> bool:
            return (await asked_with(stages, by_id(id))).status_code == 200

        await wait_until(is_kept)
        assert await text_of(stages, id) == stages.story.text


async def test_what_a_client_got_before_a_failure_is_kept(stages: Stages) -> None:
    stages.next_calls("talker", Act("raise", 4, BadInput("it breaks")))
    id, told = "", Told()
    async for chunk in stages.chunks(**SPEECH):
        told.add(chunk)
        for choice in chunk.get("choices", ()):
            id = choice["delta"].get("audio", {}).get("id", id)
    assert told.error is not None
    assert id
    assert await text_of(stages, id) == told.text


async def test_text_is_not_kept(stages: Stages, store: RedisServer) -> None:
    forget_all(store)
    assert (await asked_with(stages)).status_code == 200
    told = await stages.ask()
    assert told.error is None
    assert keys_of("answer", store) == []


async def test_kept_text_counts_as_the_requests(stages: Stages, store: RedisServer) -> None:
    redis = connect(store.url)
    kept = KeptAnswers(RedisKept(redis, "answer", KeptLimits(60, 1 << 24, 1 << 24)))
    for number in range(130):
        await kept.keep("default", f"long-{number}", "ä" * (MAX_TEXT_BYTES // 8))
    await redis.aclose()
    for ids in ([f"long-{number}" for number in range(130)], ["long-0"] * 5):
        response = await asked_with(stages, *map(by_id, ids))
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "text_too_large"


def forget_all(store: RedisServer) -> None:
    with store.client() as redis:
        if keys := keys_of("answer", store):
            redis.delete(*keys)


async def test_a_gateway_that_keeps_nothing_says_so(redis_server: RedisServer) -> None:
    async with scripted_stages(redis_server.url, workers=1, kept_answers_s=0) as stages:
        audio = await spoken(stages)
        assert audio["expires_at"] <= time.time()
        response = await asked_with(stages, by_id(audio["id"]))
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "audio_not_found")
        assert "keeps no answers" in error["message"]
        await wait_until(stages.clean)


@dataclass(slots=True)
class HeldScript(Script):
    """Sends three events, and the others once it may go on."""

    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def play(self, act: Act | None, events: AsyncIterator[E], die: Callable[[], None]) -> AsyncGenerator[E]:
        for _ in range(3):
            yield await anext(events)
        await self.may_go_on.wait()
        async for event in events:
            yield event


async def test_an_answer_goes_out_while_redis_is_away(redis_server: RedisServer) -> None:
    async with scripted_stages(redis_server.url, workers=1) as stages:
        before = (await spoken(stages))["id"]
        stages.thinker[0].script = script = HeldScript()
        chunks = list[dict[str, Any]]()
        async for chunk in stages.chunks(**SPEECH):
            if not chunks:
                redis_server.kill()
                script.may_go_on.set()
            chunks.append(chunk)
        audio = [choice["delta"].get("audio", {}) for chunk in chunks for choice in chunk["choices"]]
        (expires_at,) = (piece["expires_at"] for piece in audio if "expires_at" in piece)
        (id,) = (piece["id"] for piece in audio if "id" in piece)
        assert expires_at <= time.time()
        assert chunks[-1]["usage"]

        response = await asked_with(stages, by_id(before))
        assert (response.status_code, response.json()["error"]["code"]) == (503, "answers_unavailable")
        assert int(response.headers["retry-after"]) >= 1

        redis_server.start()
        for lost in (before, id):

            async def is_unknown(lost: str = lost) -> bool:
                return (await asked_with(stages, by_id(lost))).status_code == 400

            await wait_until(is_unknown)
        await wait_until(stages.clean)


async def test_two_gateways_know_each_others_answers(redis_server: RedisServer) -> None:
    async with (
        scripted_stages(redis_server.url, workers=1) as one,
        scripted_stages(redis_server.url, workers=1) as other,
    ):
        audio = await spoken(one)
        body = {"model": INSTRUCT.name, "messages": [USER, by_id(audio["id"]), USER]}
        response = await other.gateway.client.post(CHAT, content=json.dumps(body))
        assert response.status_code == 200
        await asyncio.gather(wait_until(one.clean), wait_until(other.clean))
