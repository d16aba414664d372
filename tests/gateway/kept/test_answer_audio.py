"""The audio of spoken answers in the object store: its tenant's, as long as the answer is kept, and nobody's business
while the answer is spoken."""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from pydantic import SecretStr, ValidationError

from services.common.errors import BadInput
from services.gateway.kept import audio
from services.gateway.settings import GatewaySettings
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.batches.conftest import Batching, batching, line
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import CHAT, HELLO, SPEECH
from tests.gateway.test_auth import sha256

pytestmark = pytest.mark.asyncio(loop_scope="module")
OTHERS_KEY = "the key of another tenant"
ASKED: dict[str, Any] = {"model": INSTRUCT.name, "messages": HELLO, **SPEECH}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Batching]:
    folder = tmp_path_factory.mktemp("audio")
    others: dict[str, Any] = {"tenant_keys": {"others": [sha256(OTHERS_KEY)]}}
    async with batching(store.url, folder, kept_answers_audio=True, **others) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(world: Batching) -> AsyncIterator[openai.AsyncOpenAI]:
    url = world.stages.gateway.url + "/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=API_KEY, max_retries=0) as made:
        yield made


async def spoken(world: Batching, **fields: Any) -> dict[str, Any]:
    """Return the `audio` of a whole answer."""
    answer = await world.client.post(CHAT, json={**ASKED, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["audio"]


async def stored(world: Batching, file_id: str) -> dict[str, Any]:
    """Wait until the file is there, and return what is known of it."""

    async def is_there() -> bool:
        return (await world.client.get(f"/v1/files/{file_id}")).status_code == 200

    await wait_until(is_there)
    return (await world.client.get(f"/v1/files/{file_id}")).json()


def samples(file: bytes) -> tuple[int, bytes]:
    """Return the sample rate and the samples of a WAV file."""
    with wave.open(io.BytesIO(file)) as opened:
        assert (opened.getnchannels(), opened.getsampwidth()) == (1, 2)
        return opened.getframerate(), opened.readframes(opened.getnframes())


def failures() -> float:
    return REGISTRY.get_sample_value("antiphon_gateway_kept_failures_total", {"kind": "audio"}) or 0.0


def spilled(world: Batching) -> int:
    return world.stages.gateway.gateway.memory.spill.used_bytes  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]


@pytest.mark.parametrize("audio_format", ["pcm16", "opus"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_openais_client_gets_the_audio_again(
    world: Batching, client: openai.AsyncOpenAI, streamed: bool, audio_format: str
) -> None:
    asked: dict[str, Any] = {**ASKED, "audio": {"voice": "ethan", "format": audio_format}}
    ends: list[Any] = []
    if streamed:
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            ends += [choice["delta"].get("audio") or {} for choice in chunk.model_dump()["choices"]]
        (end,) = [each for each in ends if "file_id" in each]
    else:
        message = (await client.chat.completions.create(**asked)).choices[0].message
        assert message.audio is not None
        end = message.audio.model_dump()
    described = await stored(world, end["file_id"])
    assert (described["purpose"], described["filename"].rpartition(".")[2]) == ("assistants_output", "wav")
    assert abs(described["expires_at"] - end["expires_at"]) <= 1
    content = (await client.files.content(end["file_id"])).content
    assert samples(content) == (24_000, world.stages.story.pcm)
    listed = [each.id async for each in client.files.list(purpose="assistants_output")]
    assert listed[0] == end["file_id"]


async def test_dashscopes_clients_get_it_too(world: Batching) -> None:
    messages = [{"role": "user", "content": [{"text": "hello"}]}]
    answer = await world.client.post(
        "/api/v1/services/aigc/multimodal-generation/generation",
        json={
            "model": INSTRUCT.name,
            "input": {"messages": messages},
            "parameters": {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "wav"}},
        },
    )
    assert answer.status_code == 200, answer.text
    assert (await stored(world, answer.json()["output"]["audio"]["file_id"]))["bytes"] > 44


async def test_the_model_hears_an_answer_that_a_request_names(world: Batching) -> None:
    audio = await spoken(world)
    await stored(world, audio["file_id"])
    content = [{"type": "file", "file": {"file_id": audio["file_id"]}}]
    history = [{"role": "assistant", "audio": {**audio, "transcript": None}}]
    body = {"model": INSTRUCT.name, "messages": [*HELLO, *history, {"role": "user", "content": content}]}
    answer = await world.client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    (heard,) = world.stages.preprocess[0].media[-1]
    assert samples(heard)[1] == world.stages.story.pcm


async def test_another_tenant_gets_nothing(world: Batching) -> None:
    file_id = (await spoken(world))["file_id"]
    await stored(world, file_id)
    others = {"authorization": f"Bearer {OTHERS_KEY}"}
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert (await world.client.get(path, headers=others)).status_code == 404
    assert (await world.client.delete(f"/v1/files/{file_id}", headers=others)).status_code == 404
    assert (await world.client.get("/v1/files", headers=others)).json()["data"] == []
    content = [{"type": "file", "file": {"file_id": file_id}}]
    asked = {"model": INSTRUCT.name, "messages": [{"role": "user", "content": content}]}
    refused = await world.client.post(CHAT, json=asked, headers=others)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "file_not_found")


async def test_a_batchs_answers_are_kept(world: Batching) -> None:
    made = await world.create([line("a", ASKED)])
    (result,) = await world.lines_of((await world.ended(made["id"]))["output_file_id"])
    audio = result["response"]["body"]["choices"][0]["message"]["audio"]
    assert (await stored(world, audio["file_id"]))["filename"] == f"{audio['id']}.wav"


async def test_an_answer_that_breaks_off_leaves_no_audio(world: Batching) -> None:
    async def files() -> list[Any]:
        return (await world.client.get("/v1/files?purpose=assistants_output")).json()["data"]

    before = await files()
    world.stages.next_calls("talker", Act("hang", 4))
    async with aclosing(world.stages.chunks(**SPEECH)) as chunks:
        async for chunk in chunks:
            if any("data" in choice["delta"].get("audio", {}) for choice in chunk["choices"]):
                break
    await wait_until(world.stages.clean)
    await wait_until(lambda: not spilled(world))
    world.stages.next_calls("talker", Act("raise", 4, BadInput("it breaks")))
    assert (await world.client.post(CHAT, json=ASKED)).status_code == 400
    assert not spilled(world)
    assert await files() == before


async def test_the_audio_expires_with_its_answer(store: RedisServer, tmp_path: Path) -> None:
    async with batching(store.url, tmp_path, kept_answers_audio=True, kept_answers_s=3) as world:
        audio = await spoken(world)
        described = await stored(world, audio["file_id"])
        assert abs(described["expires_at"] - audio["expires_at"]) <= 1
        assert world.objects == [f"files/{audio['file_id']}"]

        async def is_gone() -> bool:
            return (await world.client.get(f"/v1/files/{audio['file_id']}/content")).status_code == 404

        await wait_until(is_gone)
        await wait_until(lambda: not world.objects)


async def test_a_store_that_is_away_gets_it_later(store: RedisServer, tmp_path: Path) -> None:
    """The answer knows nothing of it, and is not later for it."""
    (tmp_path / "objects").write_text("no folder")
    async with batching(store.url, tmp_path, kept_answers_audio=True) as world:
        audio = await spoken(world)
        assert audio["transcript"] == world.stages.story.text
        assert (await world.client.get(f"/v1/files/{audio['file_id']}/content")).status_code == 404
        (tmp_path / "objects").unlink()
        await stored(world, audio["file_id"])
        content = await world.client.get(f"/v1/files/{audio['file_id']}/content")
        assert samples(content.content)[1] == world.stages.story.pcm
        await wait_until(lambda: not spilled(world))


async def test_a_store_that_stays_away_costs_the_audio_alone(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "_TRY_FOR_S", 0.0)
    (tmp_path / "objects").write_text("no folder")
    async with batching(store.url, tmp_path, kept_answers_audio=True) as world:
        before = failures()
        file_id = (await spoken(world))["file_id"]
        await wait_until(lambda: failures() == before + 1)
        assert (await world.client.get(f"/v1/files/{file_id}")).status_code == 404
        await wait_until(lambda: not spilled(world))


async def test_a_full_disk_costs_the_audio_alone(store: RedisServer, tmp_path: Path) -> None:
    async with batching(store.url, tmp_path, kept_answers_audio=True, spill_bytes=1) as world:
        answer = await spoken(world)
        assert answer["transcript"] == world.stages.story.text
        assert "file_id" not in answer or (await world.client.get(f"/v1/files/{answer['file_id']}")).status_code == 404


async def test_a_gateway_that_leaves_stores_what_was_said(store: RedisServer, tmp_path: Path) -> None:
    async with batching(store.url, tmp_path, kept_answers_audio=True) as world:
        file_id = (await spoken(world))["file_id"]
        await world.stages.gateway.gateway.drain()
        assert f"files/{file_id}" in world.objects


async def test_it_is_off_unless_it_is_asked_for(store: RedisServer, tmp_path: Path) -> None:
    async with batching(store.url, tmp_path) as world:
        assert "file_id" not in await spoken(world)
        assert world.objects == []


@pytest.mark.parametrize("fields", [{}, {"kept_answers_s": 0}, {"spill_bytes": 0}])
async def test_settings_that_contradict_it_are_refused(fields: dict[str, Any]) -> None:
    store: dict[str, Any] = {"object_store_url": "file:///objects"} if fields else {}
    control: dict[str, Any] = {"batches_address": "control:50051", "control_token": SecretStr("t")} if fields else {}
    with pytest.raises(ValidationError, match="ANTIPHON_KEPT_ANSWERS_AUDIO"):
        GatewaySettings(
            redis_url="redis://127.0.0.1", api_key=SecretStr("k"), kept_answers_audio=True, **store, **control, **fields
        )
