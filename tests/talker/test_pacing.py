"""When frames are sent: the first at once, later ones in batches, always before the client's playback runs dry."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import Fault
from services.talker.checkpoint import SpeechModels
from services.talker.engine import SpeechEngine
from services.talker.pacing import Pacer, joined, paced
from services.talker.stream import SpeechChunk
from tests.fixtures.oracle import TalkerOptions
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.talker.conftest import ExpectedSpeech
from tests.talker.speech import request_of

FRAME = 1920


def chunk(first: int, frames: int = 1) -> SpeechChunk:
    codes = np.arange(first * 16, (first + frames) * 16).reshape(frames, 16)
    return SpeechChunk(first, codes, first * FRAME, np.full(frames * FRAME, first, np.float32), first + frames)


def test_the_first_frame_does_not_wait() -> None:
    assert Pacer(0.08).patience_s(100.0) == 0


def test_no_frame_waits_at_zero_latency() -> None:
    pacer = Pacer(0)
    pacer.sent(10 * FRAME, 0.0)
    assert pacer.patience_s(0.0) == 0


def test_frames_wait_longer_for_a_client_with_audio_buffered() -> None:
    pacer, waits = Pacer(0.08), list[float]()
    for _ in range(30):
        pacer.sent(FRAME, 0.0)
        waits.append(pacer.patience_s(0.0))
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(0.08)
    assert waits[-1] == 0.64


def test_a_client_with_an_empty_buffer_gets_its_frame_at_once() -> None:
    pacer = Pacer(0.08)
    pacer.sent(FRAME, 0.0)
    assert pacer.patience_s(0.5) == 0


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0, 2)), max_size=20), st.floats(0, 0.5))
def test_a_frame_never_waits_longer_than_the_client_can_play(sends: list[tuple[int, float]], latency: float) -> None:
    pacer, now, sent = Pacer(latency), 0.0, 0.0
    for frames, pause in sends:
        pacer.sent(frames * FRAME, now)
        sent += frames * 0.08
        now += pause
        left = sent - now
        assert 0 <= pacer.patience_s(now) <= max(left, 0) + 1e-9


def test_joined_chunks_have_no_gap() -> None:
    one = joined([chunk(3), chunk(4, 2), chunk(6)])
    assert (one.first_frame, one.first_sample, one.text_tokens) == (3, 3 * FRAME, 7)
    assert one.codes.tolist() == chunk(3, 4).codes.tolist()
    assert [int(value) for value in one.samples[::FRAME]] == [3, 4, 4, 6]


async def test_a_paced_stream_sends_the_same_frames_in_fewer_chunks(
    engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech
) -> None:
    options = TalkerOptions(seed=1, max_frames=20)
    expected = answer("image", 40, options)
    stream = engine.submit(request_of(speech_models.config, expected, options))
    stream.feed(expected.token_ids, is_last=True)
    await wait_until(lambda: stream.summary is not None)  # all frames are ready, however busy the machine is
    chunks = [each async for each in paced(stream, Pacer(0.08))]
    assert len(chunks[0].codes) == 1
    assert len(chunks) < 20
    assert np.concatenate([each.codes for each in chunks]).tolist() == expected.codes.tolist()


async def test_frames_made_before_a_failure_are_sent_before_the_error(
    engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech
) -> None:
    options = TalkerOptions(seed=1, max_frames=20)
    expected = answer("image", 40, options)
    stream = engine.submit(request_of(speech_models.config, expected, options))
    stream.feed(expected.token_ids[:5], is_last=False)
    frames = 0

    async def listen() -> None:
        nonlocal frames
        async for each in paced(stream, Pacer(0.08)):
            frames += len(each.codes)
            if frames == 5:
                stream.fail(Fault("broken"))

    with pytest.raises(Fault, match="broken"):
        await asyncio.wait_for(listen(), HANGS_AFTER_S)
    assert frames == 5
