"""What a key sees of the models: those that its terms and its project's and organisation's allow, and their voices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest_asyncio

from antiphon.v1 import common_pb2
from services.common.input_limits import NAMES, by_name, least
from services.gateway.http.models import InputReply, model_reply
from services.gateway.limits import RequestLimits
from services.gateway.turn.allowed import Allowed
from services.gateway.turn.model import Model, ModelKind
from services.gateway.usage.limits import SubjectTerms, allowed_by
from services.preprocess.limits import MediaLimits
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import CAPTIONER, INSTRUCT, THINKING, RunningGateway, absent_workers, running_gateway
from tests.gateway.http_server import CHAT, HELLO
from tests.gateway.scripted.control_plane import KEY, OTHER_KEY, ScriptedControl, scripted_control


@pytest_asyncio.fixture
async def gateway(store: RedisServer, control: ScriptedControl) -> AsyncIterator[RunningGateway]:
    async with (
        absent_workers(store.url, INSTRUCT, THINKING, CAPTIONER),
        running_gateway(store.url, **control.settings) as running,
    ):
        await wait_until(lambda: _lists(running, KEY, {"tiny-captioner", "tiny-instruct", "tiny-thinking"}))
        yield running


@pytest_asyncio.fixture
async def control() -> AsyncIterator[ScriptedControl]:
    async with scripted_control() as running:
        yield running


async def listed(gateway: RunningGateway, key: str) -> dict[str, Any]:
    answer = await get(gateway, "/v1/models", key)
    return {model["id"]: model for model in answer.json()["data"]} if answer.status_code == 200 else {}


async def get(gateway: RunningGateway, path: str, key: str) -> httpx.Response:
    return await gateway.client.get(path, headers={"authorization": f"Bearer {key}"})


async def _lists(gateway: RunningGateway, key: str, names: set[str]) -> bool:
    return (await listed(gateway, key)).keys() == names


async def test_a_key_sees_the_models_and_voices_that_all_its_terms_allow(
    gateway: RunningGateway, control: ScriptedControl
) -> None:
    control.limit("org_1", models=["tiny-instruct", "tiny-thinking"])
    control.limit("proj_1", voices=["Chelsie"])
    control.limit("key_2", models=["tiny-captioner", "tiny-instruct"])
    control.tell()
    await wait_until(lambda: _lists(gateway, OTHER_KEY, {"tiny-instruct"}))
    shown = await listed(gateway, KEY)
    assert shown.keys() == {"tiny-instruct", "tiny-thinking"}
    assert shown["tiny-instruct"]["voices"] == ["chelsie"]
    assert "default_voice" not in shown["tiny-instruct"]
    assert (await get(gateway, "/v1/models/tiny-instruct", KEY)).json() == shown["tiny-instruct"]
    for name in ("tiny-captioner", "unknown"):
        refused = await get(gateway, f"/v1/models/{name}", KEY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
        assert refused.json()["error"]["message"].endswith("It may use: tiny-instruct, tiny-thinking.")


async def test_the_only_model_of_a_key_need_not_be_named(gateway: RunningGateway, control: ScriptedControl) -> None:
    async def code(key: str) -> str:
        answer = await gateway.client.post(CHAT, json={"messages": HELLO}, headers={"authorization": f"Bearer {key}"})
        return answer.json()["error"]["code"]

    assert await code(KEY) == "missing_required_parameter"
    control.limit("key_1", models=["tiny-thinking"])
    control.tell()
    await wait_until(lambda: _lists(gateway, KEY, {"tiny-thinking"}))
    assert await code(KEY) == "worker_lost"  # it was found: nobody answers at its workers' address
    assert await code(OTHER_KEY) == "missing_required_parameter"


async def test_a_wrong_voice_is_told_those_that_the_key_may_use(
    gateway: RunningGateway, control: ScriptedControl
) -> None:
    control.limit("key_1", voices=["Ethan", "Aiden"])
    control.tell()
    body = {"model": "tiny-instruct", "messages": HELLO, "modalities": ["text", "audio"]}

    async def error(voice: str) -> dict[str, Any]:
        answer = await gateway.client.post(
            CHAT, json={**body, "audio": {"voice": voice}}, headers={"authorization": f"Bearer {KEY}"}
        )
        return answer.json()["error"]

    async def is_refused() -> bool:
        return (await error("chelsie"))["code"] == "voice_not_allowed"

    await wait_until(is_refused)
    wrong = await error("aiden")
    assert (wrong["code"], wrong["message"]) == (
        "invalid_voice",
        "Invalid 'audio.voice': this model has no voice 'aiden'. Its voices are: ethan.",
    )


def test_a_model_tells_what_a_request_may_hold() -> None:
    limits = RequestLimits(64, 40, 4, 1.0, 1.0, 1.0)
    published = by_name(MediaLimits(item_bytes=30, audio_s=2400.0, item_tokens=1300).published)
    speaks = Model(
        "m", ModelKind.INSTRUCT, 1000, max_items={"image": 3, "video": 2, "audio": 5}, input_limits=published
    )
    shown = model_reply(speaks, limits).model_dump(exclude_none=True)["input"]
    assert shown == {
        "body_bytes": 64, "text_bytes": 4, "file_bytes": 30, "images": 3, "videos": 2, "audios": 5,
        **published, "audio_s": 76.924,  # no more tokens than the model's length has
    }  # fmt: skip
    assert list(InputReply.model_fields)[6:] == list(NAMES)
    assert [model_reply(Model("m", kind, 1), limits).kind for kind in ModelKind] == [kind.value for kind in ModelKind]
    captioner = model_reply(Model("c", ModelKind.CAPTIONER, 1000), limits).model_dump(exclude_none=True)["input"]
    assert captioner == {"body_bytes": 64, "text_bytes": 4, "file_bytes": 40, "images": 0, "videos": 0, "audios": 1}


def test_the_least_limits_of_all_workers_count() -> None:
    one, other = MediaLimits(audio_s=10.0), MediaLimits(video_s=5.0)
    cards = [common_pb2.ModelCard(input=limits.published) for limits in (one, other)]
    assert least([common_pb2.ModelCard(), *cards]) == MediaLimits(audio_s=10.0, video_s=5.0).published
    assert least([common_pb2.ModelCard()]) is None


def test_terms_allow_what_all_of_them_allow() -> None:
    both, one, voice = frozenset({"a", "b"}), frozenset({"b", "c"}), frozenset({"ethan"})
    assert allowed_by([]) == allowed_by([SubjectTerms()]) == Allowed()
    terms = [SubjectTerms(models=both), SubjectTerms(voices=voice), SubjectTerms(models=one)]
    assert allowed_by(terms) == Allowed(frozenset({"b"}), voice)
    assert allowed_by([SubjectTerms(models=both), SubjectTerms(models=voice)]) == Allowed(frozenset())
