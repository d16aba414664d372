"""Speak over gRPC on a real port: Redis grants the leases, and hidden states are pulled from their owner."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from antiphon.v1 import common_pb2, talker_pb2
from services.talker.checkpoint import SpeechModels
from services.talker.engine import SpeechEngine
from tests.fixtures.oracle import OracleResult
from tests.fixtures.wait import wait_until
from tests.talker.speak.rig import OPTIONS, Received, Talker, begin, running_talker, text


async def test_speech_over_grpc_equals_transformers(talker: Talker, expected: OracleResult) -> None:
    received = await talker.speak(
        begin(await talker.start_of(expected)),
        text(expected.token_ids[:1], is_last=False),
        text(expected.token_ids[1:9], is_last=False),
        text(expected.token_ids[9:], is_last=True),
    )
    assert received.started == talker_pb2.SpeakStarted(
        sample_rate=24000, samples_per_frame=1920, codebooks=16, seed=OPTIONS.seed
    )
    assert received.codes == expected.codes.tolist()
    pcm = np.frombuffer(received.pcm, "<i2")
    assert len(pcm) == len(expected.samples)
    wanted = np.rint(expected.samples.numpy().clip(-1, 1) * 32767)
    assert np.abs(pcm - wanted).max() <= 4  # 1e-4 of full scale
    assert np.abs(wanted).max() > 300
    assert received.done is not None
    assert (received.done.reason, received.done.frames) == (talker_pb2.SPEECH_END_LENGTH, len(expected.codes))
    assert received.done.samples == len(expected.samples)
    assert received.done.codec_ms_per_frame > 0
    assert len(received.speech[0].codes) == 16  # the first frame waits for no other
    for part in received.speech:
        assert part.text_tokens == part.first_frame + len(part.codes) // 16  # a token for each frame


async def test_each_frame_leaves_as_soon_as_its_text_is_there(talker: Talker, expected: OracleResult) -> None:
    call = talker.stub.Speak()
    await call.write(begin(await talker.start_of(expected)))
    assert (await call.read()).HasField("started")
    for frame, token in enumerate(expected.token_ids[:5]):
        await call.write(text([token], is_last=False))
        response: talker_pb2.SpeakResponse = await call.read()
        assert list(response.speech.codes) == expected.codes[frame].tolist()
        assert len(response.speech.pcm) == 2 * (1920 if frame else 1365)
    call.cancel()


async def test_a_cancelled_call_frees_its_slot(talker: Talker, expected: OracleResult) -> None:
    call = talker.stub.Speak()
    await call.write(begin(await talker.start_of(expected)))
    await call.read()
    assert talker.keeper.busy == 1
    call.cancel()
    await wait_until(lambda: talker.keeper.busy == 0)


async def test_suspects_enter_the_engine_one_at_a_time(talker: Talker, expected: OracleResult) -> None:
    """The next one enters with the first frame of the one before, or with its end."""
    suspicion = common_pb2.RequestContext(request_id="r", failed_engines=1)

    async def suspect() -> Any:
        call = talker.stub.Speak()
        await call.write(begin(await talker.start_of(expected, context=suspicion)))
        return call

    first = await suspect()
    assert (await first.read()).HasField("started")
    second = await suspect()
    waiting = asyncio.create_task(second.read())
    done, _ = await asyncio.wait((waiting,), timeout=0.3)
    assert not done
    await first.write(text(expected.token_ids[:1], is_last=False))
    assert (await first.read()).HasField("speech")
    assert (await waiting).HasField("started")
    first.cancel()
    await wait_until(lambda: talker.keeper.busy == 1)
    third = await suspect()
    second.cancel()
    assert (await third.read()).HasField("started")
    third.cancel()


async def test_a_call_cancelled_while_speech_comes_frees_its_slot(talker: Talker, expected: OracleResult) -> None:
    call = talker.stub.Speak()
    await call.write(begin(await talker.start_of(expected, max_frames=4000)))
    await call.write(text([5] * 4000, is_last=True))
    for _ in range(3):
        await call.read()
    call.cancel()
    await wait_until(lambda: talker.keeper.busy == 0)


async def test_resumed_speech_sends_only_what_was_not_delivered(talker: Talker, expected: OracleResult) -> None:
    delivered = expected.codes[:7].reshape(-1).tolist()
    received = await talker.speak(
        begin(await talker.start_of(expected, delivered_codes=delivered)), text(expected.token_ids, is_last=True)
    )
    assert received.speech[0].first_frame == 7
    assert received.speech[0].first_sample == 7 * 1920 - 555
    assert received.codes == expected.codes[7:].tolist()
    assert received.done is not None
    assert received.done.samples == len(expected.samples)


async def test_a_drawn_seed_is_reported_and_can_be_reused(talker: Talker, expected: OracleResult) -> None:
    async def say(sampling: talker_pb2.TalkerSampling) -> Received:
        start = await talker.start_of(expected, sampling=sampling, max_frames=4)
        return await talker.speak(begin(start), text(expected.token_ids, is_last=True))

    first, other = await say(talker_pb2.TalkerSampling()), await say(talker_pb2.TalkerSampling())
    assert first.started is not None
    assert other.started is not None
    assert first.started.seed != other.started.seed
    again = await say(talker_pb2.TalkerSampling(seed=first.started.seed))
    assert again.codes == first.codes


@pytest.mark.parametrize("tokens", [[], [5]])
async def test_nothing_to_speak_ends_without_audio(talker: Talker, expected: OracleResult, tokens: list[int]) -> None:
    received = await talker.speak(begin(await talker.start_of(expected)), text(tokens, is_last=True))
    assert received.speech == []
    assert received.done is not None
    assert (received.done.reason, received.done.samples) == (talker_pb2.SPEECH_END_NO_TEXT, 0)


async def test_empty_text_changes_nothing(talker: Talker, expected: OracleResult) -> None:
    ids = expected.token_ids
    received = await talker.speak(
        begin(await talker.start_of(expected)),
        text([], is_last=False),
        text(ids[:2], is_last=False),
        text([], is_last=False),
        text(ids[2:], is_last=True),
    )
    assert received.codes == expected.codes.tolist()


async def test_speech_that_ends_before_its_text_is_sent_whole(talker: Talker, expected: OracleResult) -> None:
    call = talker.stub.Speak()
    await call.write(begin(await talker.start_of(expected, max_frames=2)))
    await call.write(text([5] * 20, is_last=False))
    await wait_until(lambda: talker.keeper.busy == 0)
    for _ in range(20):
        await call.write(text([5], is_last=False))
    await call.write(text([5], is_last=True))
    responses: list[talker_pb2.SpeakResponse] = [response async for response in call]
    assert [response.WhichOneof("event") for response in responses] == ["started", "speech", "speech", "done"]


async def test_the_operators_frame_limit_holds(
    engine: SpeechEngine, speech_models: SpeechModels, valkey_url: str, expected: OracleResult
) -> None:
    async with running_talker(engine, speech_models, valkey_url, max_frames=3) as talker:
        received = await talker.speak(begin(await talker.start_of(expected)), text(expected.token_ids, is_last=True))
        assert received.codes == expected.codes[:3].tolist()
