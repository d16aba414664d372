"""Streams of the engine: text token by token, many at once, cancelled, slow, resumed."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.v1 import talker_pb2
from services.common.engine_watch import until_hung
from services.common.errors import ENGINE_FAILED, BadInput, ContextTooLong, Fault, Unavailable, WorkerLost
from services.talker.checkpoint import SpeechModels, load_speech_models
from services.talker.engine import SpeechEngine
from services.talker.stream import SpeechRequest
from tests.fixtures.oracle import OracleResult, TalkerOptions
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.talker.cases import CASES
from tests.talker.conftest import ExpectedSpeech
from tests.talker.speech import collect, request_of, speak
from tests.talker.test_parity import assert_equal

LONG = TalkerOptions(seed=1, max_frames=20)


@pytest.fixture
def expected(answer: ExpectedSpeech) -> OracleResult:
    """Return an answer of 20 frames with text for all of them."""
    result = answer("image", 40, LONG)
    assert len(result.codes) == 20
    return result


@pytest.fixture
def request_(speech_models: SpeechModels, expected: OracleResult) -> SpeechRequest:
    return request_of(speech_models.config, expected, LONG)


async def test_text_fed_token_by_token_gives_the_same_speech(
    engine: SpeechEngine, request_: SpeechRequest, expected: OracleResult
) -> None:
    stream = engine.submit(request_)
    for token in expected.token_ids[:-1]:
        stream.feed([token], is_last=False)
    stream.feed(expected.token_ids[-1:], is_last=True)
    assert_equal(await collect(stream), expected)


async def test_a_stream_waits_for_text_that_is_not_there_yet(
    engine: SpeechEngine, request_: SpeechRequest, expected: OracleResult
) -> None:
    stream = engine.submit(request_)
    frames: list[list[int]] = []
    for count, token in enumerate(expected.token_ids[:12], start=1):
        stream.feed([token], is_last=False)
        chunk = await anext(stream)
        frames += chunk.codes.tolist()
        assert chunk.text_tokens == count
        assert not stream.is_ready()  # each frame but the first needs one more token
    stream.feed(expected.token_ids[12:], is_last=True)
    frames += (await collect(stream)).codes.tolist()
    assert frames == expected.codes.tolist()


async def test_the_last_token_is_never_spoken(
    engine: SpeechEngine, request_: SpeechRequest, expected: OracleResult
) -> None:
    other_end = [*expected.token_ids[:-1], 7]
    assert_equal(await speak(engine, request_, other_end), expected)


async def test_streams_at_once_speak_as_each_alone(
    engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech
) -> None:
    asked = [
        (answer(case, talker=options), options)
        for index, case in enumerate(CASES)
        for options in [TalkerOptions(seed=1, do_sample=index % 3 > 0)]
    ]
    requests = [request_of(speech_models.config, result, options) for result, options in asked]
    spoken = await asyncio.gather(
        *(speak(engine, request, result.token_ids) for request, (result, _) in zip(requests, asked, strict=True))
    )
    for each, (result, _) in zip(spoken, asked, strict=True):
        assert_equal(each, result)


@pytest.mark.parametrize("delivered", [1, 2, 9, 19])
async def test_a_resumed_stream_continues_with_the_same_codes_and_samples(
    engine: SpeechEngine, speech_models: SpeechModels, expected: OracleResult, delivered: int
) -> None:
    request = request_of(speech_models.config, expected, LONG, delivered=expected.codes[:delivered])
    spoken = await speak(engine, request, expected.token_ids)
    first = spoken.chunks[0]
    assert first.first_frame == delivered
    assert first.first_sample == 1920 * delivered - 555
    assert spoken.codes.tolist() == expected.codes[delivered:].tolist()
    torch.testing.assert_close(spoken.samples, expected.samples[first.first_sample :], atol=1e-4, rtol=0)
    assert spoken.summary is not None
    assert (spoken.summary.frames, spoken.summary.samples) == (20, len(expected.samples))


async def test_a_resumed_stream_waits_for_the_text_that_was_spoken(
    engine: SpeechEngine, speech_models: SpeechModels, expected: OracleResult
) -> None:
    stream = engine.submit(request_of(speech_models.config, expected, LONG, delivered=expected.codes[:6]))
    stream.feed(expected.token_ids[:6], is_last=False)
    assert not stream.is_ready()
    stream.feed(expected.token_ids[6:7], is_last=False)
    assert (await anext(stream)).codes.tolist() == expected.codes[6:7].tolist()
    stream.cancel()


async def test_a_stream_delivered_in_full_ends_at_once(
    engine: SpeechEngine, speech_models: SpeechModels, expected: OracleResult
) -> None:
    spoken = await speak(
        engine, request_of(speech_models.config, expected, LONG, delivered=expected.codes), expected.token_ids
    )
    assert spoken.chunks == []
    assert spoken.summary is not None
    assert spoken.summary.reason == talker_pb2.SPEECH_END_LENGTH
    assert spoken.summary.samples == len(expected.samples)


async def test_cancelling_ends_a_stream_and_leaves_the_others_alone(
    speech_models: SpeechModels, request_: SpeechRequest, expected: OracleResult
) -> None:
    engine = SpeechEngine(speech_models, max_buffered_frames=5)  # so that it waits for a client that is slow
    engine.start()
    try:
        cancelled, other = engine.submit(request_), engine.submit(request_)
        for stream in (cancelled, other):
            stream.feed(expected.token_ids, is_last=True)
        await anext(cancelled)
        cancelled.cancel()
        cancelled.cancel()
        assert [chunk async for chunk in cancelled] == []
        assert cancelled.summary is None
        assert_equal(await collect(other), expected)
        await wait_until(lambda: engine.live_streams == 0)
        assert cancelled.state.frames < 20
    finally:
        engine.close()


async def test_cancelling_ends_a_stream_that_waits_for_text(engine: SpeechEngine, request_: SpeechRequest) -> None:
    stream = engine.submit(request_)
    waiting = asyncio.create_task(collect(stream), name="waiting")
    stream.cancel(Fault("away"))
    with pytest.raises(Fault, match="away"):
        await waiting
    await wait_until(lambda: engine.live_streams == 0)


async def test_a_client_that_reads_nothing_pauses_its_stream(
    speech_models: SpeechModels, request_: SpeechRequest, expected: OracleResult
) -> None:
    engine = SpeechEngine(speech_models, max_buffered_frames=5)
    engine.start()
    try:
        slow, quick = engine.submit(request_), engine.submit(request_)
        slow.feed(expected.token_ids, is_last=True)
        quick.feed(expected.token_ids, is_last=True)
        assert_equal(await collect(quick), expected)  # 20 frames after the slow stream's buffer was full
        assert slow.buffered_frames == 5
        assert slow.state.frames == 5
        await anext(slow)
        await wait_until(lambda: slow.state.frames == 6)
        rest = await collect(slow)
        assert rest.codes.tolist() == expected.codes[1:].tolist()
    finally:
        engine.close()


async def test_frames_and_samples_are_numbered_without_gaps(
    engine: SpeechEngine, request_: SpeechRequest, expected: OracleResult
) -> None:
    spoken = await speak(engine, request_, expected.token_ids)
    frames = samples = 0
    for chunk in spoken.chunks:
        assert (chunk.first_frame, chunk.first_sample) == (frames, samples)
        frames, samples = frames + len(chunk.codes), samples + len(chunk.samples)
    assert [len(chunk.samples) for chunk in spoken.chunks[:3]] == [1365, 1920, 1920]
    assert spoken.summary is not None
    assert spoken.summary.first_frame_ms > 0
    assert spoken.summary.predictor_ms_per_frame > 0


async def test_a_stream_ends_before_it_passes_the_talkers_positions(
    speech_models: SpeechModels, request_: SpeechRequest, expected: OracleResult
) -> None:
    short = dataclasses.replace(speech_models.config, max_positions=request_.prompt.num_tokens + 3)
    engine = SpeechEngine(dataclasses.replace(speech_models, config=short))
    engine.start()
    try:
        spoken = await speak(engine, request_, expected.token_ids)
        # The last frame is not fed back, so it needs no position.
        assert spoken.codes.tolist() == expected.codes[:4].tolist()
        assert spoken.summary is not None
        assert spoken.summary.reason == talker_pb2.SPEECH_END_LENGTH
    finally:
        engine.close()


async def test_a_prompt_longer_than_the_talkers_positions_is_refused(
    speech_models: SpeechModels, request_: SpeechRequest
) -> None:
    short = dataclasses.replace(speech_models.config, max_positions=request_.prompt.num_tokens - 1)
    engine = SpeechEngine(dataclasses.replace(speech_models, config=short))
    with pytest.raises(ContextTooLong) as refused:
        engine.submit(request_)
    assert refused.value.param == "messages"


async def test_a_delivered_code_outside_the_codebook_is_refused(
    engine: SpeechEngine, speech_models: SpeechModels, expected: OracleResult
) -> None:
    with pytest.raises(BadInput, match="delivered_codes"):
        engine.submit(request_of(speech_models.config, expected, LONG, delivered=torch.full((1, 16), 256)))


async def test_text_after_the_last_token_is_refused(engine: SpeechEngine, request_: SpeechRequest) -> None:
    stream = engine.submit(request_)
    stream.feed([5, 6], is_last=True)
    with pytest.raises(BadInput):
        stream.feed([7], is_last=False)
    stream.cancel()


async def test_an_end_without_its_token_is_refused(engine: SpeechEngine, request_: SpeechRequest) -> None:
    stream = engine.submit(request_)
    stream.feed([5, 6], is_last=False)
    with pytest.raises(BadInput):
        stream.feed([], is_last=True)
    stream.cancel()


async def test_a_closed_engine_fails_its_streams_and_refuses_new_ones(
    speech_models: SpeechModels, request_: SpeechRequest
) -> None:
    engine = SpeechEngine(speech_models)
    engine.start()
    stream = engine.submit(request_)
    engine.close()
    with pytest.raises(Unavailable):
        await anext(stream)
    with pytest.raises(Unavailable):
        engine.submit(request_)


async def test_a_model_failure_reaches_the_streams_and_the_owner(
    speech_models: SpeechModels, request_: SpeechRequest, expected: OracleResult
) -> None:
    failures: list[str] = []
    prompt = dataclasses.replace(request_.prompt, voice_id=10**6)
    engine = SpeechEngine(speech_models, on_failure=failures.append)
    engine.start()
    stream = engine.submit(dataclasses.replace(request_, prompt=prompt))
    stream.feed(expected.token_ids, is_last=True)
    with pytest.raises(WorkerLost) as failed:
        await collect(stream)
    assert failed.value.code == ENGINE_FAILED  # so that the speech resumes on another worker
    await wait_until(lambda: failures)
    with pytest.raises(Unavailable):
        engine.submit(request_)


async def test_seeds_change_the_speech(engine: SpeechEngine, request_: SpeechRequest, expected: OracleResult) -> None:
    sampling = dataclasses.replace(request_.sampling, seed=77)
    spoken = await speak(engine, dataclasses.replace(request_, sampling=sampling), expected.token_ids)
    assert not np.array_equal(spoken.codes[:5].numpy(), expected.codes[:5].numpy())


async def test_half_precision_speaks_too(tiny_instruct: Path, expected: OracleResult) -> None:
    models = load_speech_models(tiny_instruct, dtype="bfloat16")
    engine = SpeechEngine(models)
    engine.start()
    try:
        spoken = await speak(engine, request_of(models.config, expected, LONG), expected.token_ids)
    finally:
        engine.close()
    assert len(spoken.codes) > 0
    assert torch.isfinite(spoken.samples).all()
    assert spoken.samples.std() > 0


class Hang:
    """Makes a method of an engine's speaker hang until `go_on` is set. `hangs`: it does."""

    def __init__(self, engine: SpeechEngine, name: str, patch: pytest.MonkeyPatch) -> None:
        self.hangs, self.go_on = threading.Event(), threading.Event()
        self._method = getattr(engine.speaker, name)
        patch.setattr(engine.speaker, name, self)

    def __call__(self, *args: Any) -> Any:
        self.hangs.set()
        self.go_on.wait()
        return self._method(*args)


async def test_an_engine_answers_between_steps_and_not_while_it_hangs(
    speech_models: SpeechModels, request_: SpeechRequest, expected: OracleResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SpeechEngine(speech_models)
    hang = Hang(engine, "begin", monkeypatch)
    engine.start()
    try:
        await engine.answer()  # idle
        stream = engine.submit(request_)
        stream.feed(expected.token_ids, is_last=True)
        await wait_until(hang.hangs.is_set)
        asked = asyncio.create_task(engine.answer())
        done, _ = await asyncio.wait((asked,), timeout=0.3)
        assert not done
        hang.go_on.set()
        await asked
        await collect(stream)
    finally:
        hang.go_on.set()
        engine.close()


@pytest.mark.parametrize("where", ["open", "prefill", "begin"])
async def test_a_hung_engine_is_found_and_its_streams_fail_as_of_the_engine(
    where: str,
    speech_models: SpeechModels,
    request_: SpeechRequest,
    expected: OracleResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.common.engine_watch._EVERY_S", 0.02)
    engine = SpeechEngine(speech_models)
    hang = Hang(engine, where, monkeypatch)
    engine.start()
    try:
        watch = asyncio.create_task(until_hung(engine, 0.2, lambda _: None))
        stream = engine.submit(request_)
        stream.feed(expected.token_ids, is_last=True)
        await wait_until(hang.hangs.is_set)
        later = engine.submit(request_)
        assert "the engine hangs" in await asyncio.wait_for(watch, HANGS_AFTER_S)
        engine.abandon()
        for each in (stream, later):
            with pytest.raises(WorkerLost) as failed:
                await collect(each)
            assert failed.value.code == ENGINE_FAILED
        with pytest.raises(Unavailable):
            engine.submit(request_)
        engine.close()  # does not wait for the thread
        assert not hang.go_on.is_set()
    finally:
        hang.go_on.set()
        engine.close()
