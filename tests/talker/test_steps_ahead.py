"""An engine that launches a step before it has read the last one, as on a GPU, gives the same speech."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator

import pytest
import torch

from antiphon.v1 import talker_pb2
from services.talker.checkpoint import SpeechModels
from services.talker.engine import SpeechEngine
from services.talker.memory import plan_memory
from services.talker.step import InFlightStep, StepInput
from services.talker.stream import SpeechRequest
from tests.fixtures.oracle import OracleResult, TalkerOptions
from tests.fixtures.wait import wait_until
from tests.talker.conftest import ExpectedSpeech
from tests.talker.graphs import put_outputs_in_one_place
from tests.talker.speech import collect, request_of, speak
from tests.talker.test_parity import assert_equal

OPTIONS = TalkerOptions(seed=1, max_frames=20)
BUDGET = 60_000_000


@pytest.fixture
def expected(answer: ExpectedSpeech) -> OracleResult:
    """Return an answer of 20 frames with text for all of them."""
    return answer("image", 40, OPTIONS)


@pytest.fixture
def request_(speech_models: SpeechModels, expected: OracleResult) -> SpeechRequest:
    return request_of(speech_models.config, expected, OPTIONS)


def one_ahead(models: SpeechModels, *, slots: int, max_buffered_frames: int = 25) -> SpeechEngine:
    plan = plan_memory(models, BUDGET, slots=slots, max_frames=40)
    return SpeechEngine(models, memory=plan, max_buffered_frames=max_buffered_frames, steps_ahead=1)


@pytest.fixture
def engine(speech_models: SpeechModels) -> Iterator[SpeechEngine]:
    engine = one_ahead(speech_models, slots=2)
    yield engine
    engine.close()


def watch(engine: SpeechEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record, at each launch, the number of steps launched and not read, with this one."""
    in_flight: list[int] = []
    count = 0
    begin, read = engine.speaker.begin, InFlightStep.frames

    def begun(inputs: list[StepInput]) -> InFlightStep:
        nonlocal count
        count += 1
        in_flight.append(count)
        return begin(inputs)

    def was_read(step: InFlightStep) -> object:
        nonlocal count
        count -= 1
        return read(step)

    monkeypatch.setattr(engine.speaker, "begin", begun)
    monkeypatch.setattr(InFlightStep, "frames", was_read)
    return in_flight


async def test_speech_is_the_same_with_one_step_ahead(
    engine: SpeechEngine, request_: SpeechRequest, expected: OracleResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_flight = watch(engine, monkeypatch)
    put_outputs_in_one_place(monkeypatch, engine.speaker.parts)
    engine.start()
    assert_equal(await speak(engine, request_, expected.token_ids), expected)
    assert in_flight == [1] + [2] * 19


async def test_a_frame_does_not_wait_for_the_next_ones_text(
    engine: SpeechEngine, request_: SpeechRequest, expected: OracleResult
) -> None:
    engine.start()
    stream = engine.submit(request_)
    frames: list[list[int]] = []
    for token in expected.token_ids[:8]:
        stream.feed([token], is_last=False)
        frames += (await anext(stream)).codes.tolist()
    stream.feed(expected.token_ids[8:], is_last=True)
    frames += (await collect(stream)).codes.tolist()
    assert frames == expected.codes.tolist()


async def test_a_slot_freed_with_a_step_in_flight_serves_the_next_stream_exactly(
    speech_models: SpeechModels, request_: SpeechRequest, expected: OracleResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the answer's own codes is the end code, so the next step is in flight when it is read."""
    at = next(index for index in range(5, 20) if expected.codes[index, 0] not in expected.codes[:index, 0])
    config = dataclasses.replace(speech_models.config, codec_eos_id=int(expected.codes[at, 0]))
    engine = one_ahead(dataclasses.replace(speech_models, config=config), slots=1)
    in_flight = watch(engine, monkeypatch)
    engine.start()
    try:
        later = dataclasses.replace(request_, delivered_codes=expected.codes[:3])
        spoken = await asyncio.gather(
            *[speak(engine, request, expected.token_ids) for request in (request_, request_, later, request_)]
        )
        await wait_until(lambda: engine.free_slots == 1)
    finally:
        engine.close()
    delivered_before = (0, 0, 3, 0)
    # Each answer runs all its steps but the first, and one past its end.
    assert in_flight.count(2) == sum(at + 1 - delivered for delivered in delivered_before)
    for each, delivered in zip(spoken, delivered_before, strict=True):
        assert each.summary is not None
        assert (each.summary.reason, each.summary.frames) == (talker_pb2.SPEECH_END_STOP, at)
        assert each.codes.tolist() == expected.codes[delivered:at].tolist()
        begin, end = (engine.speaker.samples_after(frames) for frames in (delivered, at))
        torch.testing.assert_close(each.samples, expected.samples[begin:end], atol=1e-4, rtol=0)


async def test_a_client_that_reads_nothing_has_a_bounded_buffer(
    speech_models: SpeechModels, request_: SpeechRequest, expected: OracleResult
) -> None:
    engine = one_ahead(speech_models, slots=2, max_buffered_frames=5)
    engine.start()
    try:
        slow = engine.submit(request_)
        slow.feed(expected.token_ids, is_last=True)
        assert_equal(await speak(engine, request_, expected.token_ids), expected)
        assert (slow.buffered_frames, slow.state.frames, slow.state.in_flight) == (5, 5, 0)
        assert_equal(await collect(slow), expected)
    finally:
        engine.close()


async def test_cancelling_frees_the_slot_with_a_step_in_flight(
    engine: SpeechEngine, request_: SpeechRequest, expected: OracleResult
) -> None:
    engine.start()
    leaving, other = engine.submit(request_), engine.submit(request_)
    for stream in (leaving, other):
        stream.feed(expected.token_ids, is_last=True)
    await anext(leaving)
    leaving.cancel()
    third = speak(engine, request_, expected.token_ids)
    for spoken in await asyncio.gather(collect(other), third):
        assert_equal(spoken, expected)
    await wait_until(lambda: engine.free_slots == engine.slots)
