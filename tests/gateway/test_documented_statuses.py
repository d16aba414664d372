"""Each status that the OpenAPI document has of each operation comes about, and its answer is as documented."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr
from websockets.asyncio.client import connect

from antiphon.v1 import batches_pb2, control_pb2
from services.common.channels import ChannelPool
from services.gateway.auth import DEFAULT_TENANT
from services.gateway.batches.object_store import ObjectStore
from services.gateway.batches.records import BatchError
from services.gateway.control.batches import ControlBatches
from services.gateway.control.usage import ControlUsage
from services.gateway.http.dashscope.uploads.endpoint import OBJECTS
from services.gateway.http.files import endpoint, upload
from services.gateway.idempotency.keys import IdempotencyKeys
from services.gateway.kept.redis_store import RedisKept
from services.gateway.memory import GatewayMemory
from services.gateway.realtime.session_end import SessionEnd
from services.gateway.realtime.webrtc.calls import Calls
from services.gateway.turn.admission import Admission
from services.gateway.turn.intent import Principal
from services.gateway.uploads.files import folder_key
from services.gateway.uploads.policy import Policies
from tests.control.conftest import running_control
from tests.fixtures.documented import Documented, documented
from tests.fixtures.ports import free_port
from tests.fixtures.redis import RedisServer
from tests.fixtures.redis_patience import patience_with_redis
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, CAPTIONER, INSTRUCT, MAX_HEADER_BYTES, RunningGateway, running_gateway
from tests.gateway.requests import REQUESTS, Asked, ask, ask_raw, made_for, posted
from tests.gateway.scripted.control_plane import (
    KEY,
    OTHER_KEY,
    TOKEN,
    ScriptedControl,
    limit,
    scripted_control,
    tenant_key,
)
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
MOST_BATCHES = 30
CALLS: dict[str, Any] = {"webrtc": True, "webrtc_host": "127.0.0.1", "webrtc_port": 0}
# Of a key that may be used for nothing here.
USELESS_KEY = "key-of-nobody"
# Of one that may do all but read its project's usage.
CHAT_KEY = "key-for-chat"
Scenario = Callable[["World", Asked], Awaitable[httpx.Response]]


@dataclass
class World:
    """Scripted stages behind a gateway that follows the control plane `tells`. `other`: a gateway whose Redis and
    control plane are away."""

    stages: Stages
    other: RunningGateway
    document: Documented
    control: ControlBatches
    tells: ScriptedControl

    @property
    def gateway(self) -> RunningGateway:
        return self.stages.gateway


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("files")
    async with (
        scripted_control() as control,
        running_control(f"sqlite:///{folder}/control.db", tenant_batches=MOST_BATCHES) as batches,
        AsyncExitStack() as stack,
    ):
        stack.enter_context(patience_with_redis())
        # A file may take ten times as long as another body. That a slow one ends, shows as well where it may not.
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(upload, "_UPLOAD_TIMES", 1)
        control.keys.append(tenant_key(3, USELESS_KEY, scopes=[control_pb2.KEY_SCOPE_ADMIN_READ]))
        control.keys.append(tenant_key(4, CHAT_KEY, scopes=[control_pb2.KEY_SCOPE_CHAT]))
        control.sums = [control_pb2.UsageSum(day="2027-01-31", requests=2, cost_micros=1_500_000)]
        control.limit("key_2", limit("requests_per_minute", 0))
        control.limit("key_3", models=["another"])
        hasty: dict[str, Any] = {
            "body_timeout_s": 4.0,  # for bodies that are whole, too, on a busy machine
            "header_timeout_s": 0.5,
            "realtime_max_sessions": 1,
            "batches_address": batches.address,
            "object_store_url": f"file://{folder}/objects",
            "batch_concurrency": 0,  # batches stay as they are made
            "page": True,
            **CALLS,
        }
        stages = await stack.enter_async_context(
            scripted_stages(store.url, captioner=True, **control.settings, **hasty)
        )
        away: dict[str, Any] = {
            "batches_address": f"127.0.0.1:{free_port()}",
            "control_token": SecretStr(TOKEN),
            "object_store_url": f"file://{folder}/objects",
            "batch_concurrency": 0,  # nor does it look for them while something is broken on purpose
            **CALLS,
        }
        other = await stack.enter_async_context(running_gateway(f"redis://127.0.0.1:{free_port()}/0", **away))
        channels = ChannelPool()
        stack.push_async_callback(channels.close)
        document = documented((await stages.gateway.client.get("/openapi.json")).content)
        await wait_until(lambda: _is_let_in(stages.gateway))
        yield World(stages, other, document, ControlBatches(batches.address, TOKEN, channels), control)
        await wait_until(stages.clean)


async def _is_let_in(gateway: RunningGateway) -> bool:
    answer = await ask(gateway, REQUESTS["listModels"], KEY)
    return answer.status_code == 200 and {m["id"] for m in answer.json()["data"]} == {INSTRUCT.name, CAPTIONER.name}


async def served(world: World, asked: Asked) -> httpx.Response:
    answer = await ask(world.gateway, asked, KEY)
    await _no_session(world)  # there is room for one
    return answer


async def _no_session(world: World) -> None:
    """End the calls, which wait for their clients."""
    for session in world.gateway.gateway.sessions._open:  # pyright: ignore[reportPrivateUsage]
        session.end(SessionEnd.REQUESTED)
    await wait_until(lambda: not world.gateway.gateway.sessions.count)


async def unchanged(world: World, asked: Asked) -> httpx.Response:
    first = await ask(world.gateway, asked, KEY)
    return await ask(world.gateway, asked, KEY, if_none_match=first.headers["etag"])


async def wrong(world: World, asked: Asked) -> httpx.Response:
    if asked.wrong_query:
        return await ask(world.gateway, replace(asked, path=asked.path + asked.wrong_query), KEY)
    if asked.is_upgrade:
        return await ask(world.gateway, replace(asked, path=f"{asked.path}&model=another"), KEY)
    if asked.path.startswith("/v1/batches/"):  # it reads no body
        return await ask(world.gateway, asked, KEY, idempotency_key="")
    return await ask(world.gateway, replace(asked, body={"json": {"nothing": 1}}), KEY)


async def without_a_key(world: World, asked: Asked) -> httpx.Response:
    return await ask(world.gateway, asked, "")


async def with_a_useless_key(world: World, asked: Asked) -> httpx.Response:
    if asked.path == OBJECTS:  # it takes no key, but a signature
        forged = {**asked.body["data"], "Signature": "forged"}
        return await ask(world.gateway, replace(asked, body={**asked.body, "data": forged}), "")
    key = CHAT_KEY if asked is REQUESTS["listOwnUsage"] else USELESS_KEY
    return await ask(world.gateway, asked, key)


async def of_an_unknown_name(world: World, asked: Asked) -> httpx.Response:
    if asked.nothing or asked is REQUESTS["createBatch"]:
        return await ask(world.gateway, asked, KEY)
    return await ask(world.gateway, asked.of_model("unknown"), KEY)


async def half(world: World, asked: Asked) -> httpx.Response:
    head = f"{asked.method} {asked.path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    rest = f"content-type: {_kind(asked)}\r\ncontent-length: 9\r\n\r\n-" if asked.body else ""
    return await ask_raw(world.gateway, (head + rest).encode())


async def giant(world: World, asked: Asked) -> httpx.Response:
    head = f"{asked.method} {asked.path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    head += f"content-type: {_kind(asked)}\r\ncontent-length: {10**12}\r\n\r\n"
    return await ask_raw(world.gateway, head.encode())


async def with_giant_headers(world: World, asked: Asked) -> httpx.Response:
    head = f"{asked.method} {asked.path} HTTP/1.1\r\nhost: x\r\nx-giant: {'a' * MAX_HEADER_BYTES}\r\n"
    return await ask_raw(world.gateway, head.encode())


async def without_an_upgrade(world: World, asked: Asked) -> httpx.Response:
    return await ask(world.gateway, replace(asked, is_upgrade=False), KEY)


async def again_with_its_key(world: World, asked: Asked) -> httpx.Response:
    """Ask twice with a key that is used up: the first response was too large to be kept. Or ask for what the state of
    a thing does not allow."""
    if asked.path == OBJECTS:
        assert (await ask(world.gateway, asked, "")).status_code == 200
        return await ask(world.gateway, replace(asked, body={**asked.body, "files": {"file": b"another"}}), "")
    if asked.path.startswith("/v1/files/"):
        file = asked.path.rpartition("/")[2]
        assert (await ask(world.gateway, REQUESTS["createBatch"].of_file(file), KEY)).status_code == 200
        return await ask(world.gateway, asked, KEY)
    if asked.path.startswith("/v1/batches/"):
        await _end_batches(world)
        return await ask(world.gateway, asked, KEY)
    key = f"once-{asked.path}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IdempotencyKeys, "response_bytes", property(lambda _: 0), raising=False)
        first = await ask(world.gateway, asked, KEY, idempotency_key=key)
    assert first.status_code == 200, first.text
    return await ask(world.gateway, asked, KEY, idempotency_key=key)


async def _end_batches(world: World) -> None:
    """Let all batches fail, as if their files were wrong."""
    for job in (await world.control.take("test", 0, 1000)).jobs:
        if job.kind == batches_pb2.Job.KIND_VALIDATE:
            await world.control.end_validation("test", job.batch.id, [BatchError("wrong", "It is wrong.")], 0, "")


async def over_a_limit(world: World, asked: Asked) -> httpx.Response:
    if asked.path == "/v1/batches":
        while (answer := await ask(world.gateway, asked, KEY)).status_code == 200:
            pass
        await _end_batches(world)  # others are made after this
        return answer
    if asked.path in ("/v1/files", OBJECTS):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ObjectStore, "buffer_bytes", 1)  # as S3 needs some
            patch.setattr(GatewayMemory, "is_crowded", lambda *_: True)
            return await ask(world.gateway, asked, KEY)
    if asked.path.endswith("/content"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(endpoint, "SMALL_BYTES", 0)  # as of a larger file
            patch.setattr(GatewayMemory, "is_crowded", lambda *_: True)
            return await ask(world.gateway, asked, KEY)
    if asked is REQUESTS["createRealtimeCall"]:
        assert (await ask(world.gateway, asked, KEY)).status_code == 201
        return await ask(world.gateway, asked, KEY)
    if not asked.is_upgrade:
        return await ask(world.gateway, asked, OTHER_KEY)
    async with _session(world, asked):
        return await ask(world.gateway, asked, KEY)


async def of_a_broken_gateway(world: World, asked: Asked) -> httpx.Response:
    async def fail(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Admission, "find", fail)
        patch.setattr(Admission, "models", fail)
        patch.setattr(RedisKept, "get_many", fail)
        patch.setattr(RedisKept, "delete", fail)
        patch.setattr(ControlBatches, "_call", fail)
        patch.setattr(ControlUsage, "sums", fail)
        patch.setattr(Calls, "hang_up", lambda *_: 1 / 0)
        return await ask(world.gateway, asked, KEY)


async def without_redis(world: World, asked: Asked) -> httpx.Response:
    if asked.path.endswith("/hangup"):  # which needs the keys alone
        keys = world.gateway.gateway.readiness._keys  # pyright: ignore[reportPrivateUsage]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keys, "_clock", lambda: math.inf)
            return await ask(world.gateway, asked, KEY)
    if asked is REQUESTS["listOwnUsage"]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world.tells, "is_away", True)
            return await ask(world.gateway, asked, KEY)
    if asked.path == OBJECTS:
        policies = Policies(TOKEN.encode())
        policy = policies.new(Principal(DEFAULT_TENANT, DEFAULT_TENANT), INSTRUCT.name, 1000)
        encoded, signature = policies.signed(policy)
        fields = {"policy": encoded, "signature": signature, "upload_dir": folder_key(policy.folder)}
        return await ask(world.other, posted(fields), "")
    return await ask(world.other, asked, API_KEY)


async def of_a_slow_worker(world: World, asked: Asked) -> httpx.Response:
    world.stages.next_calls("preprocess", Act("hang"))
    return await ask(world.gateway, asked, KEY, x_request_timeout_ms="500")


BRINGS: Mapping[int, Scenario] = {
    101: served,
    200: served,
    201: served,
    304: unchanged,
    400: wrong,
    401: without_a_key,
    403: with_a_useless_key,
    404: of_an_unknown_name,
    408: half,
    409: again_with_its_key,
    413: giant,
    426: without_an_upgrade,
    429: over_a_limit,
    431: with_giant_headers,
    500: of_a_broken_gateway,
    503: without_redis,
    504: of_a_slow_worker,
}


def _kind(asked: Asked) -> str:
    return "multipart/form-data; boundary=x" if "files" in asked.body else "application/json"


@asynccontextmanager
async def _session(world: World, asked: Asked) -> AsyncGenerator[None]:
    url = world.gateway.url.replace("http", "ws") + asked.path
    async with connect(url, additional_headers={"authorization": f"Bearer {KEY}"}, compression=None):
        yield
    await _no_session(world)


async def test_every_documented_status_can_be_brought_about(world: World) -> None:
    statuses: set[int] = set()
    for item in world.document.document["paths"].values():
        for method, operation in item.items():
            if method != "servers":
                assert operation["operationId"] in REQUESTS, "add a request of it to tests/gateway/requests.py"
                statuses |= {int(status) for status in operation["responses"]}
    assert statuses == BRINGS.keys()


@pytest.mark.parametrize("status", BRINGS)
async def test_a_documented_status_comes_about(world: World, status: int) -> None:
    async def check(name: str, asked: Asked) -> None:
        operation = world.document.operation(asked.method, asked.path.partition("?")[0])
        assert operation["operationId"] == name
        if str(status) in operation["responses"]:
            if status != 404:
                asked = await made_for(world.gateway, asked, KEY)
            answer = await BRINGS[status](world, asked)
            assert answer.status_code == status, (name, answer.text)
            if "/calls" in asked.path and status != 408:
                await _no_session(world)

    if status == 408:  # each takes its time
        await asyncio.gather(*(check(*each) for each in REQUESTS.items()))
    else:
        for each in REQUESTS.items():
            await check(*each)


@pytest.mark.parametrize(
    ("name", "field", "more"),
    [
        ("createChatCompletion", "json", {"stream": True, "stream_options": {"include_usage": True}}),
        ("createChatCompletion", "json", {"stream": True, "modalities": ["text", "audio"], "return_token_ids": True}),
        ("createSpeech", "json", {"stream_format": "sse"}),
        ("generateMultimodal", "json", {}),
        ("generateMultimodal", "json", {"parameters": {"modalities": ["text", "audio"], "incremental_output": False}}),
        ("createTranscription", "data", {"stream": "true"}),
        ("createTranslation", "data", {"stream": "true"}),
        ("createCaption", "data", {"stream": "true"}),
        ("createResponse", "json", {"stream": True, "metadata": {"a": "b"}}),
        ("createResponse", "json", {"stream": True, "max_output_tokens": 1}),
    ],
)
async def test_events_are_as_documented(world: World, name: str, field: str, more: dict[str, Any]) -> None:
    asked = REQUESTS[name]
    body = {**asked.body, field: {**asked.body.get(field, {}), **more}}
    answer = await ask(world.gateway, replace(asked, body=body), KEY, x_dashscope_sse="enable")
    assert answer.status_code == 200, answer.text
    assert len(world.document.check_events(answer)) > 1


async def test_whatever_a_response_was_asked_for_is_as_documented(world: World) -> None:
    asked = REQUESTS["createResponse"]
    for more in (
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "reasoning": {"effort": "none"}},
        {"instructions": "Be brief.", "metadata": {"a": "b"}, "user": "u", "temperature": 0, "top_p": 0.5},
        {"store": False, "max_output_tokens": 1, "service_tier": "default", "tool_choice": "auto"},
    ):
        answer = await ask(world.gateway, replace(asked, body={"json": {**asked.body["json"], **more}}), KEY)
        assert answer.status_code == 200, answer.text


async def test_a_spoken_answer_is_as_documented(world: World) -> None:
    asked = REQUESTS["createChatCompletion"]
    more = {"modalities": ["text", "audio"], "return_token_ids": True}
    answer = await ask(world.gateway, replace(asked, body={"json": {**asked.body["json"], **more}}), KEY)
    assert json.loads(answer.text)["choices"][0]["message"]["audio"]["codes"]
