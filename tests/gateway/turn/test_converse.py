"""Converse goes through the same admission and the same turns as chat completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from antiphon.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc, preprocess_pb2
from services.common.channels import open_channel
from services.common.errors import AntiphonError, BadInput, Capacity, ContextTooLong
from services.common.grpc_errors import error_from_rpc
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.grpc_port import grpc_port
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages

SPEECH = (common_pb2.MODALITY_TEXT, common_pb2.MODALITY_AUDIO)
SOUND = preprocess_pb2.AudioPart(source=preprocess_pb2.MediaSource(inline_index=0))
HEARD: dict[str, Any] = {
    "model": INSTRUCT.name,
    "messages": [preprocess_pb2.Message(role="user", parts=[preprocess_pb2.Part(audio=SOUND)])],
    "inline_count": 1,
}


@asynccontextmanager
async def gateway_stub(stages: Stages) -> AsyncGenerator[Any]:
    async with grpc_port(stages.gateway) as address, open_channel(address) as channel:
        yield gateway_pb2_grpc.GatewayStub(channel)


def requests(**fields: Any) -> list[gateway_pb2.ConverseRequest]:
    start = gateway_pb2.ConverseStart(**(HEARD | fields))
    chunk = preprocess_pb2.InlineChunk(inline_index=0, data=b"sound")
    return [gateway_pb2.ConverseRequest(start=start), gateway_pb2.ConverseRequest(chunk=chunk)]


def converse(stub: Any, **fields: Any) -> Any:
    return stub.Converse(
        iter(requests(**fields)), metadata=(("authorization", f"Bearer {API_KEY}"),), timeout=HANGS_AFTER_S
    )


async def refusal(stages: Stages, **fields: Any) -> AntiphonError:
    async with gateway_stub(stages) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in converse(stub, **fields):
                pass
    return error_from_rpc(caught.value, "gateway")


async def test_losses_are_hidden_from_converse_too(stages: Stages) -> None:
    stages.next_calls("thinker", Act("die", 3))
    stages.next_calls("talker", Act("die", 3))
    async with gateway_stub(stages) as stub:
        events = [event async for event in converse(stub, output_modalities=SPEECH, conversation_id="c")]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1], kinds.count("speech_started")) == ("started", "done", 1)
    assert events[0].started.request_id.startswith("req_")
    story = stages.story
    assert [token for event in events for token in event.text.token_ids] == story.token_ids
    assert "".join(event.text.content_delta for event in events) == story.text
    assert [code for event in events for code in event.speech.codes] == story.codes
    assert b"".join(event.speech.pcm for event in events) == story.pcm
    usage = events[-1].done.usage
    assert (usage.cached_tokens, usage.completion_text_tokens) == (2, len(story.token_ids))
    assert (usage.completion_audio_tokens, usage.prompt.audio_tokens) == (story.frames, 3)
    affinities = {call.context.affinity for worker in stages.workers for call in worker.calls}
    assert affinities == {"c"}


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"voice": "nobody", "output_modalities": SPEECH}, BadInput, "voice"),
        ({"model": "another"}, AntiphonError, "model"),
        ({"sampling": {"max_tokens": 1001}}, ContextTooLong, "sampling.max_tokens"),
        (
            {"messages": [preprocess_pb2.Message(role="assistant", parts=[preprocess_pb2.Part(audio=SOUND)])]},
            BadInput,
            "messages[0].parts[0]",
        ),
    ],
)
async def test_the_admission_names_fields_as_converse_does(
    stages: Stages, fields: dict[str, Any], kind: type[AntiphonError], param: str
) -> None:
    error = await refusal(stages, **fields)
    assert isinstance(error, kind)
    assert error.param == param
    assert not any(worker.calls for worker in stages.workers)


async def test_a_field_that_a_stage_refuses_has_its_name_of_the_proto(stages: Stages) -> None:
    stages.next_calls("thinker", Act("raise", error=BadInput("top_p is wrong", param="top_p")))
    async with gateway_stub(stages) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in converse(stub):
                pass
    assert error_from_rpc(caught.value, "gateway").param == "sampling.top_p"
    # google.rpc's description of it is beside ours.
    trailers: dict[str, Any] = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert [status.details[0].Unpack(info), status.details[1].Unpack(request)] == [True, True]
    assert (status.code, info.reason, info.domain) == (3, "INVALID_VALUE", "antiphon")
    assert request.field_violations[0].field == "sampling.top_p"


async def test_a_refusal_says_when_to_come_again(stages: Stages) -> None:
    stages.next_calls("preprocess", Act("raise", error=Capacity("full", retry_after_s=2.5)))
    async with gateway_stub(stages) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in converse(stub):
                pass
    trailers: dict[str, Any] = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2500


async def test_a_developer_speaks_as_the_system(stages: Stages) -> None:
    texts = [preprocess_pb2.Part(text="Be brief.")]
    spoken = [preprocess_pb2.Message(role="developer", parts=texts), *HEARD["messages"]]
    async with gateway_stub(stages) as stub:
        assert [event async for event in converse(stub, messages=spoken)]
    (start,) = stages.calls("preprocess")
    assert [message.role for message in start.messages] == ["system", "user"]


async def test_a_cancelled_converse_frees_its_slots(stages: Stages) -> None:
    stages.next_calls("thinker", Act("hang", 3))
    async with gateway_stub(stages) as stub:
        call = converse(stub)
        async for event in call:
            if event.HasField("text"):
                break
        call.cancel()
        await wait_until(stages.clean)


async def test_a_preset_is_chats(stages: Stages) -> None:
    translation = gateway_pb2.Preset(name="translation", language="de", to_language="fr")
    async with gateway_stub(stages) as stub:
        assert [event async for event in converse(stub, preset=translation)]
    [prepare] = stages.calls("preprocess")
    [heard] = prepare.messages
    assert [part.WhichOneof("content") for part in heard.parts] == ["audio", "text"]
    assert heard.parts[1].text == "Listen to the provided German speech and produce a translation in French text."

    hello = [preprocess_pb2.Message(role="user", parts=[preprocess_pb2.Part(text="hello")])]
    for preset, param, told in (
        (gateway_pb2.Preset(name="none"), "preset.name", "Supported values are: 'voice-assistant'"),
        (gateway_pb2.Preset(), "preset.name", "Missing required parameter"),
        (gateway_pb2.Preset(name="lyrics", language="de"), "preset", "Invalid 'preset': 'lyrics' has no 'language'"),
        (gateway_pb2.Preset(name="lyrics"), "preset", "it is a task for media"),
    ):
        error = await refusal(stages, preset=preset, **({"messages": hello} if told.startswith("it is") else {}))
        assert (error.param, told in error.message) == (param, True), error.message
