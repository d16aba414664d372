"""Calls over WebRTC: a real peer connection, a real gateway, scripted stages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import FRAME_MS, LongStory
from tests.gateway.realtime.webrtc.calling import CALLS, Caller, calling, caller, dialling, offer_of, post
from tests.gateway.scripted.stages import Stages, scripted_stages

WEBRTC: dict[str, Any] = {
    "webrtc": True,
    "webrtc_host": "127.0.0.1",
    "webrtc_port": 0,
    "max_media_bytes": 4 << 20,
    "max_body_bytes": 16 << 20,
    "realtime_eager_silence_ms": 0,
}
VAD = {"type": "server_vad"}


class LoudStory(LongStory):
    """Each frame of speech lasts 100 ms, and is a tone."""

    def _samples(self, frame: int) -> bytes:
        return b"".join((8000 if n % 48 < 24 else -8000).to_bytes(2, "little", signed=True) for n in range(24 * 100))


@asynccontextmanager
async def served(store: RedisServer, frames: int = 4, **settings: Any) -> AsyncGenerator[Stages]:
    given = {**WEBRTC, **settings}
    async with scripted_stages(store.url, LoudStory(frames=frames), workers=1, slots=8, **given) as stages:
        yield stages
        await wait_until(lambda: is_over(stages))
        await wait_until(stages.clean)
        await wait_until(lambda: not stages.gateway.gateway.memory.budget.held_bytes)


def is_over(stages: Stages) -> bool:
    return not stages.gateway.gateway.sessions.count


async def test_a_spoken_turn_is_heard_and_answered(store: RedisServer) -> None:
    async with served(store) as stages, calling(stages, VAD) as call:
        call.microphone.say(silence(400) + said("hello") + silence(900))
        started = await call.until("output_audio_buffer.started")
        stopped = await call.until("output_audio_buffer.stopped")
        assert started["response_id"] == stopped["response_id"]
        # The speech itself is no event: it was heard.
        assert "response.output_audio.delta" not in call.types
        expected = ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "response.created"]
        expected += ["response.output_audio.done", "response.done"]
        assert [kind for kind in call.types if kind in expected] == expected
        await wait_until(lambda: call.loud_frames >= 4 * FRAME_MS / 20 * 0.8)
        transcript = "".join(e["delta"] for e in call.events if e["type"] == "response.output_audio_transcript.delta")
        assert transcript == stages.story.text
        ((sent,),) = stages.preprocess[0].media
        assert len(sent) > 48 * 600
