"""An answer that is held under a sound of the user: the gateway plays it, so that it knows that nothing is heard."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("aiortc")

from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.realtime.session import Session
from services.gateway.realtime.webrtc.connection import CallConnection
from services.gateway.realtime.webrtc.speaker import Speaker
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.test_back_channels import SOUND, session_of
from tests.gateway.realtime.test_semantic_vad import hangs
from tests.gateway.realtime.webrtc.calling import calling
from tests.gateway.realtime.webrtc.test_calls import VAD, served
from tests.gateway.scripted.script import Act


def speaker_of(session: Session) -> Speaker:
    connection = getattr(session.emit, "__self__", None)
    assert isinstance(connection, CallConnection)
    return connection._call.speaker  # pyright: ignore[reportPrivateUsage]


def waiting_s(speaker: Speaker) -> float:
    return speaker._waiting_bytes / (2 * SAMPLE_RATE)  # pyright: ignore[reportPrivateUsage]


def is_held(speaker: Speaker) -> bool:
    return speaker._held_until_s > 0  # pyright: ignore[reportPrivateUsage]


async def test_what_was_not_played_under_a_sound_is_not_taken_for_heard(store: RedisServer) -> None:
    async with served(store, frames=600, words=300) as stages, calling(stages, VAD) as call:
        call.microphone.say(silence(400) + said("hello") + silence(900))
        await call.until("output_audio_buffer.started")
        await wait_until(lambda: len(stages.calls("thinker")) == 1)
        session = session_of(stages)
        speaker, answer = speaker_of(session), session._responses.last_in_conversation  # pyright: ignore[reportPrivateUsage]
        assert answer is not None
        await wait_until(lambda: waiting_s(speaker) > 1.5)  # all of the lead, but for what a sound lets be played
        stages.next_calls("thinker", Act("hang"))
        call.microphone.say(SOUND + silence(2000))
        await wait_until(lambda: is_held(speaker))
        began_s = time.monotonic()
        await hangs(stages)
        await wait_until(lambda: not is_held(speaker))
        held_s = time.monotonic() - began_s
        assert held_s > 0.3
        # Its frames leave 20 ms at a time, and may be late: by less than what was held.
        assert answer.unheard_s() > waiting_s(speaker) - held_s / 2
        await call.ask("response.cancel", "response.done")
