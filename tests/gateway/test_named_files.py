"""Files of /v1/files in requests, by their ids: what each holds reaches the model, of the tenant's own files alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from antiphon.v1 import preprocess_pb2
from services.gateway.batches.object_store import ObjectStore
from tests.fixtures.redis import RedisServer
from tests.gateway.batches.conftest import Batching, batching
from tests.gateway.conftest import API_KEY, INSTRUCT, MAX_MEDIA_BYTES, MAX_TEXT_BYTES, running_gateway
from tests.gateway.test_auth import sha256

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = INSTRUCT.name
THEIR_KEY = "their key"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Batching]:
    folder = tmp_path_factory.mktemp("named")
    tenants: dict[str, Any] = {"tenant_keys": {"others": [sha256(THEIR_KEY)]}}
    async with batching(store.url, folder, batch_concurrency=0, **tenants) as running:
        yield running


async def uploaded(world: Batching, name: str, data: bytes, purpose: str = "user_data", key: str = API_KEY) -> str:
    """Upload a file, and return its id."""
    fields, files = {"purpose": purpose}, {"file": (name, data)}
    answer = await world.client.post("/v1/files", data=fields, files=files, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["purpose"], answer.json()["expires_at"]) == (purpose, None)
    return answer.json()["id"]


def in_chat(id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "file", "file": {"file_id": id, **fields}}


async def ask(world: Batching, path: str, *parts: dict[str, Any], **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": [*parts]}]
    body = {"model": MODEL, "messages" if path == CHAT else "input": messages, **fields}
    return await world.client.post(path, json=body)


def prepared(world: Batching) -> tuple[preprocess_pb2.PrepareStart, list[bytes]]:
    """Return the last request, as preprocess received it, and its media."""
    worker = world.stages.preprocess[0]
    return worker.calls[-1], worker.media[-1]


def kinds(start: preprocess_pb2.PrepareStart) -> list[str | None]:
    return [part.WhichOneof("content") for message in start.messages for part in message.parts]


async def test_openai_python_names_files_in_chat(world: Batching) -> None:
    async with AsyncOpenAI(base_url=f"{world.stages.gateway.url}/v1", api_key=API_KEY, max_retries=0) as client:
        image = await client.files.create(file=("cat.PNG", b"image"), purpose="vision")
        sound = await client.files.create(file=("a.wav", b"sound"), purpose="user_data")
        film = await client.files.create(file=("a.mp4", b"film"), purpose="user_data")
        text = await client.files.create(file=("a.md", "\ufeffGrüße".encode()), purpose="user_data")
        asked: Any = [{"role": "user", "content": [in_chat(file.id) for file in (image, text, sound, film, image)]}]
        answer = await client.chat.completions.create(model=MODEL, messages=asked)
    assert answer.choices[0].message.content == world.stages.story.text
    start, media = prepared(world)
    assert kinds(start) == ["image", "text", "audio", "video", "image"]
    assert start.messages[0].parts[1].text == "Grüße"
    assert media == [b"image", b"sound", b"film", b"image"]


async def test_openai_python_names_files_in_responses(world: Batching) -> None:
    image, sound = await uploaded(world, "a", b"image", "vision"), await uploaded(world, "a.wav", b"sound")
    asked: Any = [
        {"type": "input_image", "file_id": image, "detail": "auto"},
        {"type": "input_file", "file_id": sound},
    ]
    async with AsyncOpenAI(base_url=f"{world.stages.gateway.url}/v1", api_key=API_KEY, max_retries=0) as client:
        first = await client.responses.create(model=MODEL, input=[{"role": "user", "content": asked}])
        assert prepared(world)[1] == [b"image", b"sound"]
        shown = (await client.responses.input_items.list(first.id)).data
        assert [part["file_id"] for part in shown[0].model_dump()["content"]] == [image, sound]
        await client.responses.create(model=MODEL, input="And then?", previous_response_id=first.id)
        assert prepared(world)[1] == [b"image", b"sound"]
        await client.files.delete(sound)
    refused = await world.client.post(
        RESPONSES, json={"model": MODEL, "input": "And then?", "previous_response_id": first.id}
    )
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (404, "file_not_found")
    assert error["param"] == "previous_response_id[0].content[1].file_id"


async def test_the_purpose_may_come_behind_the_file(world: Batching) -> None:
    """As node's client may send them."""
    form = [("file", ("a.png", b"image")), ("purpose", (None, "vision"))]
    answer = await world.client.post("/v1/files", files=form)
    assert answer.json()["purpose"] == "vision"
    assert (await ask(world, CHAT, in_chat(answer.json()["id"]))).status_code == 200


async def test_a_filename_says_what_a_file_is(world: Batching) -> None:
    id = await uploaded(world, "upload", b"words")
    refused = await ask(world, CHAT, in_chat(id))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_file")
    assert (await ask(world, CHAT, in_chat(id, filename="a.wav"))).status_code == 200
    assert kinds(prepared(world)[0]) == ["audio"]
    assert (await ask(world, CHAT, in_chat(id, filename="a.txt"))).status_code == 200
    assert kinds(prepared(world)[0]) == ["text"]


async def test_flags_count_the_films_that_are_named(world: Batching) -> None:
    id = await uploaded(world, "a.mp4", b"film")
    parts = [in_chat(id), {"type": "video_url", "video_url": {"url": "https://a.org/b.mp4"}}]
    assert (await ask(world, CHAT, *parts, use_audio_in_video=[True, False])).status_code == 200
    videos = [part.video for part in prepared(world)[0].messages[0].parts]
    assert [video.use_audio for video in videos] == [True, False]
    refused = await ask(world, CHAT, *parts, use_audio_in_video=[True])
    assert refused.json()["error"]["param"] == "use_audio_in_video"


async def test_a_tenant_names_its_own_files_alone(world: Batching) -> None:
    """Another's file, one that is gone and one that never was are the same."""
    theirs = await uploaded(world, "a.png", b"theirs", key=THEIR_KEY)
    gone = await uploaded(world, "a.png", b"gone")
    assert (await world.client.delete(f"/v1/files/{gone}")).status_code == 200
    for path, part, param in (
        (CHAT, in_chat("?"), "messages[0].content[0].file.file_id"),
        (RESPONSES, {"type": "input_image", "file_id": "?"}, "input[0].content[0].file_id"),
        (RESPONSES, {"type": "input_file", "file_id": "?"}, "input[0].content[0].file_id"),
    ):
        told: list[tuple[int, str]] = []
        for id in (theirs, gone, "file-unknown", "a\0b", "../a"):
            named = {**part, "file": {"file_id": id}} if "file" in part else {**part, "file_id": id}
            answer = await ask(world, path, named)
            told.append((answer.status_code, answer.json()["error"]["message"]))
            assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, "file_not_found")
        assert {status for status, _ in told} == {404}
        assert len({message for _, message in told}) == 1


@pytest.mark.parametrize(
    ("name", "size_bytes", "purpose", "status", "code"),
    [
        ("a.jsonl", 10, "batch", 400, "unsupported_file"),
        ("a.pdf", 10, "user_data", 400, "unsupported_file"),
        ("a.png", MAX_MEDIA_BYTES + 1, "user_data", 413, "media_too_large"),
        ("a.txt", MAX_TEXT_BYTES + 1, "user_data", 413, "text_too_large"),
    ],
)
async def test_a_file_that_cannot_be_named_is_not_read(
    world: Batching,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    size_bytes: int,
    purpose: str,
    status: int,
    code: str,
) -> None:
    async def read(*_: object) -> bytes:
        raise AssertionError("it is read")

    text = await uploaded(world, "b.txt", b"a text")
    id = await uploaded(world, name, bytes(size_bytes), purpose)
    monkeypatch.setattr(ObjectStore, "read", read)
    for path, parts in (
        (CHAT, [in_chat(id)]),
        (RESPONSES, [{"type": "input_file", "file_id": id}]),
        *([(CHAT, [in_chat(text), in_chat(id)])] if code != "media_too_large" else []),
    ):
        refused = await ask(world, path, *parts)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code), refused.text


async def test_a_text_that_is_none_is_refused(world: Batching) -> None:
    refused = await ask(world, CHAT, in_chat(await uploaded(world, "a.txt", b"\xff\xfe")))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages[0].content[0].file.file_id")
    assert "not UTF-8" in refused.json()["error"]["message"]


async def test_without_a_store_no_file_is_named(store: RedisServer) -> None:
    async with running_gateway(store.url) as gateway:
        body = {"model": MODEL, "messages": [{"role": "user", "content": [in_chat("file-1")]}]}
        answer = await gateway.client.post(CHAT, json=body)
        assert answer.status_code == 404
        assert "keeps no uploaded files" in answer.json()["error"]["message"]
