"""DashScope's uploads: local files in its own client, unmodified, and by hand what that never does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import dashscope
import httpx
import pytest
import pytest_asyncio
from dashscope import MultiModalConversation
from dashscope.common.error import UploadFileException
from dashscope.utils.oss_utils import OssUtils
from dashscope.v2.client import AsyncClient
from openai import AsyncOpenAI
from openai import NotFoundError as OpenAiNotFound

from services.gateway.batches.object_store import CHUNK_BYTES, ObjectStore, ObjectWriter
from services.gateway.control.batches import ControlBatches
from services.gateway.http.dashscope.uploads.endpoint import PostObject
from services.gateway.turn.intent import Principal
from services.gateway.uploads.policy import Policies, UploadPolicy
from tests.control.conftest import TOKEN
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.batches.conftest import Batching, batching
from tests.gateway.conftest import API_KEY, INSTRUCT, MAX_MEDIA_BYTES, running_gateway
from tests.gateway.scripted.stages import Stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
GENERATION = "/api/v1/services/aigc/multimodal-generation/generation"
POLICY = "/api/v1/uploads?action=getPolicy&model=qwen3-omni-flash"
OBJECTS = "/api/v1/uploads/objects"
NOBODYS = f"oss://dashscope-instant/{'0' * 32}/a.png"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Batching]:
    folder = tmp_path_factory.mktemp("uploads")
    async with batching(store.url, folder, control={"tenant_files": 1}, batch_concurrency=0) as running:
        yield running


@pytest.fixture
def base(world: Batching, monkeypatch: pytest.MonkeyPatch) -> str:
    """The base URL, which the client's first interface asks for policies at."""
    url = world.stages.gateway.url + "/api/v1"
    monkeypatch.setattr(dashscope, "base_http_api_url", url)
    return url


def file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def conversation(*parts: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": [*parts, {"text": "What is it?"}]}]


async def call(messages: Iterable[Any], **fields: Any) -> Any:
    asked: dict[str, Any] = {"model": "qwen3-omni-flash", "messages": messages, "api_key": API_KEY, **fields}
    return await asyncio.to_thread(MultiModalConversation.call, **asked)


def seen(stages: Stages) -> list[bytes]:
    """Return the media of the last request, as preprocess received it."""
    return stages.preprocess[0].media[-1]


async def new_policy(world: Batching, **headers: str) -> dict[str, Any]:
    answer = await world.client.get(POLICY, headers={name.replace("_", "-"): each for name, each in headers.items()})
    assert answer.status_code == 200, answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    return answer.json()["data"]


async def post(
    world: Batching, given: dict[str, Any], data: bytes, name: str = "a.png", changed: Mapping[str, Any] | None = None
) -> httpx.Response:
    """Upload as the client does, without a key."""
    key = f"{given['upload_dir']}/{name}"
    fields = {"Signature": given["signature"], "policy": given["policy"], "key": key, **(changed or {})}
    async with httpx.AsyncClient(base_url=world.stages.gateway.url) as stranger:
        stranger.event_hooks = world.client.event_hooks
        return await stranger.post(OBJECTS, data=fields, files={"file": (name, data)} if data else None)


async def test_local_files_of_each_kind(world: Batching, base: str, tmp_path: Path) -> None:
    """As the vendor's samples have them: paths, file: URLs, names that are not ASCII, and frames of a video."""
    image, audio = file(tmp_path, "一只 狗.png", b"image"), file(tmp_path, "a.wav", b"audio")
    video, frames = file(tmp_path, "v.mp4", b"video"), [file(tmp_path, f"{n}.jpg", b"frame %d" % n) for n in range(3)]
    answer = await call(
        conversation(
            {"image": image.as_uri()},
            {"audio": str(audio)},
            {"video": f"file://{video}"},
            {"video": [f"file://{frame}" for frame in frames], "fps": 2},
        )
    )
    assert answer.status_code == HTTPStatus.OK, answer
    assert answer.output.choices[0].message.content[0]["text"] == world.stages.story.text
    assert seen(world.stages) == [b"image", b"audio", b"video", b"frame 0", b"frame 1", b"frame 2"]


async def test_a_file_that_a_conversation_names_twice(world: Batching, base: str, tmp_path: Path) -> None:
    image = file(tmp_path, "a.png", b"x" * 50_000)
    answer = await call([*conversation({"image": str(image)}), *conversation({"image": image.as_uri()})])
    assert answer.status_code == HTTPStatus.OK, answer
    assert seen(world.stages) == [b"x" * 50_000] * 2


async def test_two_files_of_one_name_are_told_apart(world: Batching, base: str, tmp_path: Path) -> None:
    """As at DashScope: both would have the same URL."""
    one, two = file(tmp_path, "one/a.png", b"one"), file(tmp_path, "two/a.png", b"two!")
    with pytest.raises(UploadFileException, match="another file with this name"):
        await call(conversation({"image": str(one)}, {"image": str(two)}))


async def test_the_second_interface(world: Batching, base: str, tmp_path: Path) -> None:
    image = file(tmp_path, "a.png", b"image")
    async with AsyncClient(api_key=API_KEY, base_url=base, protocol="native", max_retries=0) as client:
        answer = await client.chat.completions.create(
            model="qwen3-omni-flash",
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": image.as_uri()}}]}],
        )
    assert answer.choices[0].message.content == world.stages.story.text
    assert seen(world.stages) == [b"image"]


async def test_compatible_mode_and_responses_take_the_url(world: Batching, base: str, tmp_path: Path) -> None:
    path = file(tmp_path, "a.png", b"image")
    url, _ = await asyncio.to_thread(OssUtils.upload, "qwen3-omni-flash", str(path), API_KEY)
    assert url.startswith("oss://")
    resolve = {"X-DashScope-OssResourceResolve": "enable"}
    root = world.stages.gateway.url
    async with AsyncOpenAI(base_url=f"{root}/compatible-mode/v1", api_key=API_KEY, max_retries=0) as client:
        asked: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        answer = await client.chat.completions.create(model=INSTRUCT.name, messages=asked, extra_headers=resolve)
        assert answer.choices[0].message.content == world.stages.story.text
        assert seen(world.stages) == [b"image"]
        asked = [{"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "auto"}]}]
        await client.responses.create(model=INSTRUCT.name, input=asked)
        assert seen(world.stages) == [b"image"]
        asked = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": NOBODYS}}]}]
        with pytest.raises(OpenAiNotFound) as refused:
            await client.chat.completions.create(model=INSTRUCT.name, messages=asked)
        assert (refused.value.code, refused.value.param) == (
            "file_not_found",
            "messages[0].content[0].image_url.url",
        )


async def test_uploads_are_files_that_expire(world: Batching) -> None:
    """They count apart from the files of batches, of which there may be one here."""
    policy = await new_policy(world)
    for name in ("one.png", "two.png"):
        assert (await post(world, policy, b"image", name)).status_code == 200
    shown = (await world.client.get("/v1/files?purpose=user_data")).json()["data"]
    assert [each["filename"] for each in shown[:2]] in (["one.png", "two.png"], ["two.png", "one.png"])
    assert {each["expires_at"] - each["created_at"] for each in shown} == {48 * 3600}
    uploaded = await world.upload(b"{}")
    assert uploaded.status_code == 200, uploaded.text
    refused = await world.client.post(
        "/v1/batches",
        json={
            "input_file_id": shown[0]["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "input_file_id"


def verified(policy: dict[str, Any]) -> UploadPolicy:
    found = Policies(TOKEN.encode()).verified(policy["policy"], policy["signature"])
    assert found is not None
    return found


def signed(policy: UploadPolicy, secret: str = TOKEN) -> dict[str, Any]:
    """Return the policy as a client gets it."""
    encoded, signature = Policies(secret.encode()).signed(policy)
    return {"upload_dir": f"dashscope-instant/{policy.folder}", "policy": encoded, "signature": signature}


async def test_a_policy_allows_what_it_says_alone(world: Batching) -> None:
    policy, another = await new_policy(world), await new_policy(world)
    larger = signed(replace(verified(policy), max_bytes=1 << 40))
    forged = signed(verified(policy), secret="of another server")
    for fields, status, code in (
        ({"policy": larger["policy"]}, 403, "AccessDenied"),
        ({"Signature": forged["signature"]}, 403, "AccessDenied"),
        ({"Signature": another["signature"]}, 403, "AccessDenied"),
        ({"Signature": "ü"}, 403, "AccessDenied"),
        ({"key": f"{another['upload_dir']}/a.png"}, 403, "AccessDenied"),
        ({"key": f"{policy['upload_dir']}/../a.png"}, 403, "AccessDenied"),
        ({"key": f"{policy['upload_dir']}/"}, 403, "AccessDenied"),
        ({"key": [f"{policy['upload_dir']}/a", "b"]}, 400, "InvalidParameter"),
    ):
        answer = await post(world, policy, b"image", changed=fields)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    before = world.objects
    assert (await post(world, policy, bytes(MAX_MEDIA_BYTES + 1))).status_code == 413
    assert (await post(world, policy, b"")).status_code == 400
    assert (await post(world, signed(replace(verified(policy), max_bytes=4)), b"image", "c.png")).status_code == 413
    await wait_until(lambda: world.objects == before)
    assert (await post(world, policy, bytes(MAX_MEDIA_BYTES), "b.png")).status_code == 200


async def test_a_policy_ends(world: Batching) -> None:
    """After five minutes, and with its key."""
    policy = verified(await new_policy(world))
    assert 0 < policy.expires_unix_s - time.time() <= 300
    for changed, problem in (
        (replace(policy, expires_unix_s=int(time.time())), "expired"),
        (replace(policy, key_id="key_of_nobody"), "not valid any more"),
        (replace(policy, tenant="nobody"), "not valid any more"),
    ):
        answer = await post(world, signed(changed), b"image")
        assert (answer.status_code, problem in answer.json()["message"]) == (403, True)


async def test_a_policys_key_is_valid_to_the_end_of_the_upload(
    world: Batching, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, before = await new_policy(world), world.objects
    (posted,) = [each.app for each in world.stages.gateway.gateway.operations if isinstance(each.app, PostObject)]
    holders = iter([Principal("default", "default"), None])  # it is revoked while the file comes
    monkeypatch.setattr(posted, "_holder_of", lambda *_: next(holders))
    answer = await post(world, policy, b"image")
    assert (answer.status_code, answer.json()["code"]) == (403, "AccessDenied")
    assert world.objects == before


async def test_the_fields_come_before_the_file(world: Batching) -> None:
    policy = await new_policy(world)
    parts = [
        ("file", ("a.png", b"image")),
        ("policy", (None, policy["policy"])),
        ("Signature", (None, policy["signature"])),
        ("key", (None, policy["upload_dir"] + "/a.png")),
    ]
    answer = await world.client.post(OBJECTS, files=parts)
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")


async def test_a_file_is_not_overwritten(world: Batching) -> None:
    policy = await new_policy(world)
    assert (await post(world, policy, b"image")).status_code == 200
    assert (await post(world, policy, b"image")).status_code == 200
    for other in (b"imagE", b"imag", b"images"):
        answer = await post(world, policy, other)
        assert (answer.status_code, answer.json()["code"]) == (409, "Conflict")


async def test_a_name_is_free_again_after_an_upload_that_failed(world: Batching) -> None:
    """No runner removes here what is left of it."""
    policy = await new_policy(world)
    small = signed(replace(verified(policy), max_bytes=4))
    for data, status in ((b"image", 413), (b"", 400), (b"imag", 200), (b"imag", 200), (b"imax", 409)):
        assert (await post(world, small, data)).status_code == status
    [latest] = (await world.client.get("/v1/files?purpose=user_data&limit=1")).json()["data"]
    assert (await world.client.delete(f"/v1/files/{latest['id']}")).status_code == 200
    assert (await post(world, small, b"imax")).status_code == 200
    assert (world.folder / "files" / latest["id"]).read_bytes() == b"imax"


async def test_what_is_left_of_an_upload_that_failed_is_gone_before_its_name_is_free(
    world: Batching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would take with it what comes under the name then."""
    were_there: list[bool] = []
    forget = ControlBatches.delete_file

    async def forgets(control: ControlBatches, tenant: str, id: str) -> None:
        were_there.append((world.folder / "files" / id).exists())
        await forget(control, tenant, id)

    monkeypatch.setattr(ControlBatches, "delete_file", forgets)
    policy = await new_policy(world)
    assert (await post(world, signed(replace(verified(policy), max_bytes=4)), b"image")).status_code == 413
    assert were_there == [False]


async def test_what_a_store_buffers_counts_as_memory(world: Batching, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 does. A file that is compared is read, too."""
    budget, write, read = world.stages.gateway.gateway.memory.budget, ObjectWriter.write, ObjectStore.read
    held: dict[str, int] = {}

    async def writes(writer: ObjectWriter, data: bytes) -> None:
        held["written"] = budget.held_bytes
        await write(writer, data)

    async def reads(store: ObjectStore, name: str, offset: int, size_bytes: int) -> bytes:
        held["compared"] = budget.held_bytes
        return await read(store, name, offset, size_bytes)

    monkeypatch.setattr(ObjectStore, "buffer_bytes", 1 << 20)
    monkeypatch.setattr(ObjectWriter, "write", writes)
    monkeypatch.setattr(ObjectStore, "read", reads)
    policy = await new_policy(world)
    for _ in range(2):
        assert (await post(world, policy, b"image")).status_code == 200
    assert held == {"written": 1 << 20, "compared": 2 * CHUNK_BYTES}
    assert budget.holds == 0


async def test_what_is_not_there_any_more(world: Batching) -> None:
    """An expired file is one that never was; one that goes while it is read says the same."""
    policy = await new_policy(world)
    assert (await post(world, policy, b"image")).status_code == 200
    asked = {
        "model": INSTRUCT.name,
        "input": {"messages": conversation({"image": f"oss://{policy['upload_dir']}/a.png"})},
    }
    assert (await world.client.post(GENERATION, json=asked)).status_code == 200
    [latest] = (await world.client.get("/v1/files?purpose=user_data&limit=1")).json()["data"]
    (world.folder / "files" / latest["id"]).unlink()
    told = [await world.client.post(GENERATION, json=asked)]
    assert (await world.client.delete(f"/v1/files/{latest['id']}")).status_code == 200
    told.append(await world.client.post(GENERATION, json=asked))
    for answer in told:
        assert (answer.status_code, answer.json()["code"]) == (404, "NotFound"), answer.text
        assert answer.json()["message"].startswith("Invalid 'input.messages[0].content[0].image': ")


async def test_where_clients_upload_to(world: Batching, store: RedisServer) -> None:
    policy = await new_policy(world)
    assert policy["upload_host"] == world.stages.gateway.url + OBJECTS
    policy = await new_policy(world, host="api.example.org", x_forwarded_proto="https")
    assert policy["upload_host"] == f"https://api.example.org{OBJECTS}"
    refused = await world.client.get(POLICY, headers={"host": "a b"})
    assert refused.status_code == 400
    refused = await world.client.get("/api/v1/uploads?model=qwen3-omni-flash")
    assert (refused.status_code, refused.json()["code"]) == (400, "InvalidParameter")


async def test_without_a_store_the_policy_call_says_so(store: RedisServer) -> None:
    async with running_gateway(store.url) as gateway:
        answer = await gateway.client.get(POLICY)
        assert answer.status_code == 404
        assert "keeps no uploaded files" in answer.json()["message"]
        asked = {"input": {"messages": conversation({"image": NOBODYS})}}
        answer = await gateway.client.post(GENERATION, json=asked)
        assert answer.status_code == 404
        assert "keeps no uploaded files" in answer.json()["message"]
