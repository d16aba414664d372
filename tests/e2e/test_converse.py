"""Converse through the whole stack."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from antiphon.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc, preprocess_pb2, talker_pb2, thinker_pb2
from services.common.channels import open_channel
from tests.e2e.idle import Idle
from tests.e2e.media import audio_part, text_part, tone_wav
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")
SPEECH = (common_pb2.MODALITY_TEXT, common_pb2.MODALITY_AUDIO)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stub(stack: Stack) -> AsyncIterator[gateway_pb2_grpc.GatewayAsyncStub]:
    async with open_channel(stack.grpc_address) as channel:
        yield gateway_pb2_grpc.GatewayStub(channel)


def asked(stack: Stack, **fields: Any) -> list[gateway_pb2.ConverseRequest]:
    """Return a spoken question: the start, then its recording in two chunks."""
    sound = tone_wav()
    audio = preprocess_pb2.AudioPart(source=preprocess_pb2.MediaSource(inline_index=0))
    parts = [preprocess_pb2.Part(audio=audio), preprocess_pb2.Part(text="What is that?")]
    start = gateway_pb2.ConverseStart(
        model=stack.model,
        messages=[preprocess_pb2.Message(role="user", parts=parts)],
        output_modalities=SPEECH,
        inline_count=1,
        **fields,
    )
    halves = (sound[: len(sound) // 2], sound[len(sound) // 2 :])
    return [
        gateway_pb2.ConverseRequest(start=start),
        *(gateway_pb2.ConverseRequest(chunk=preprocess_pb2.InlineChunk(data=half)) for half in halves),
    ]


def converse(stack: Stack, stub: gateway_pb2_grpc.GatewayAsyncStub, requests: list[gateway_pb2.ConverseRequest]) -> Any:
    return stub.Converse(
        iter(requests), metadata=(("authorization", f"Bearer {stack.api_key}"),), timeout=HANGS_AFTER_S
    )


async def test_converse_answers_as_chat_completions(stack: Stack, stub: gateway_pb2_grpc.GatewayAsyncStub) -> None:
    sampling = thinker_pb2.ThinkerSampling(temperature=0, max_tokens=8)
    talker = talker_pb2.TalkerSampling(seed=4)
    call = converse(stack, stub, asked(stack, sampling=sampling, talker=talker, max_frames=5))
    events = [event async for event in call]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1]) == ("started", "done")
    assert kinds.count("speech_started") == 1
    assert kinds.index("speech_started") < kinds.index("speech")
    token_ids = [i for e in events for i in e.text.token_ids]
    assert [e.text.is_last for e in events if e.HasField("text")][-1]
    async with openai.AsyncOpenAI(base_url=stack.url + "/v1", api_key=stack.api_key, timeout=HANGS_AFTER_S) as client:
        messages: Any = [{"role": "user", "content": [audio_part(), text_part("What is that?")]}]
        answer = await client.chat.completions.create(
            model=stack.model,
            messages=messages,
            modalities=["text", "audio"],
            audio={"voice": "ethan", "format": "pcm16"},
            temperature=0,
            max_tokens=8,
            extra_body={"return_token_ids": True, "talker": {"seed": 4, "max_frames": 5}},
        )
    said = answer.model_dump()
    assert list(events[0].started.prompt_token_ids) == said["prompt_token_ids"]
    assert token_ids == said["choices"][0]["token_ids"]
    audio = said["choices"][0]["message"]["audio"]
    assert [c for e in events for c in e.speech.codes] == audio["codes"]
    assert b"".join(e.speech.pcm for e in events) == base64.b64decode(audio["data"])
    done = events[-1].done
    assert done.usage.completion_audio_tokens == len(audio["codes"]) // 16
    assert done.usage.prompt.audio_tokens > 0
    timings = done.timings
    assert 0 < timings.prepare_ms <= timings.thinker_first_token_ms <= timings.first_audio_ms <= timings.total_ms


async def test_a_cancelled_call_frees_every_slot_within_a_second(
    stack: Stack, stub: gateway_pb2_grpc.GatewayAsyncStub
) -> None:
    call = converse(stack, stub, asked(stack, sampling=thinker_pb2.ThinkerSampling(max_tokens=2000, ignore_eos=True)))
    async for event in call:
        if event.HasField("speech"):
            break
    assert not await Idle(stack)()
    call.cancel()
    await wait_until(Idle(stack))
