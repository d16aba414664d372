"""Conversations that DashScope's SDK holds, unmodified, with a recorded voice and a camera."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from dashscope import Client
from dashscope.audio.qwen_omni import AudioFormatConfig, MultiModality

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.realtime.asides import TRANSCRIPT, Asides, kind_of
from tests.gateway.realtime.dashscope.talking import at_16_khz, encoded, jpeg, talking, url_of
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import PCM
from tests.gateway.realtime.test_server_vad import EAGER_OFF, utterance
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

TRANSCRIBED = "conversation.item.input_audio_transcription.completed"


@asynccontextmanager
async def scripted(store: RedisServer, **settings: Any) -> AsyncGenerator[Stages]:
    given = {**EAGER_OFF, **settings}
    async with scripted_stages(store.url, Asides(frames=4), workers=1, slots=8, **given) as stages:
        yield stages
        await wait_until(stages.clean)
        await wait_until(lambda: stages.gateway.gateway.memory.budget.held_bytes == 0)


def asked(stages: Stages) -> list[Any]:
    """Return what responses were asked, not transcripts."""
    return [start for start in stages.calls("preprocess") if kind_of(start) is None]


def contents(message: Any) -> list[str]:
    return [part.WhichOneof("content") for part in message.parts]


async def test_a_spoken_conversation_with_a_camera_and_a_barge_in(store: RedisServer) -> None:
    async with scripted(store) as stages, talking(stages, voice="Cherry", instructions="Be kind.") as talk:
        seen = len(talk.events)
        sound = utterance()
        middle = len(sound) // 4 * 2
        await talk.append(sound[:middle])
        await asyncio.to_thread(talk.sdk.append_video, encoded(jpeg()))
        await talk.append(sound[middle:])
        await talk.until("response.done")
        transcript = await talk.until(TRANSCRIBED)
        assert transcript["transcript"] == "".join(TRANSCRIPT)
        events = [kind for kind in talk.types(seen) if kind != TRANSCRIBED]
        assert events == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.created",
            "response.created",
            "response.output_item.added",
            "conversation.item.created",
            "response.content_part.added",
            "response.audio.done",
            "response.audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.done",
        ]
        assert talk.audio() == stages.story.pcm
        assert talk.sdk.get_last_response_id() == (await talk.until("response.done"))["response"]["id"]
        assert talk.sdk.get_last_first_audio_delay() is not None
        first = asked(stages)[0]
        assert first.messages[0].parts[0].text == "Be kind."
        assert contents(first.messages[1]) == ["image", "audio"]
        assert any(jpeg() in media for media in stages.preprocess[0].media)
        assert stages.calls("talker")[0].voice == "chelsie"
        # The user interrupts the next answer.
        seen = len(talk.events)
        stages.next_calls("talker", Act("hang", 2))
        await talk.append(utterance())
        await talk.until("response.audio.delta", seen, times=2)
        seen = len(talk.events)
        await talk.append(silence(400) + said("hello"))
        done = (await talk.until("response.done", seen))["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected")
        await talk.append(silence(1200))
        assert (await talk.until("response.done", seen, times=2))["response"]["status"] == "completed"
        await talk.until(TRANSCRIBED, times=3)
        assert "error" not in talk.types()


async def test_manual_turns_with_a_film(store: RedisServer) -> None:
    async with scripted(store) as stages:
        options: dict[str, Any] = {"enable_turn_detection": False, "enable_input_audio_transcription": False}
        async with talking(stages, **options) as talk:
            frames = [jpeg(color=color) for color in ("red", "green", "blue")]
            for frame in frames:
                await talk.append(silence(1000))
                await asyncio.to_thread(talk.sdk.append_video, encoded(frame))
            await asyncio.to_thread(talk.sdk.commit)
            await talk.until("conversation.item.created")
            await asyncio.to_thread(talk.sdk.create_response, "Say what you see.", [MultiModality.TEXT])
            done = (await talk.until("response.done"))["response"]
            assert (done["modalities"], done["output"][0]["content"][0]["text"]) == (["text"], stages.story.text)
            system, user = asked(stages)[0].messages
            assert system.parts[0].text == "Say what you see."
            assert contents(user) == ["video", "audio"]
            video = user.parts[0].video
            assert (len(video.frames), round(video.fps, 2)) == (3, 1.0)
            assert stages.preprocess[0].media[0][:3] == frames
            # What was cleared is in no turn.
            seen = len(talk.events)
            await asyncio.to_thread(talk.sdk.append_video, encoded(frames[0]))
            await asyncio.to_thread(talk.sdk.clear_appended_audio)
            await talk.until("input_audio_buffer.cleared")
            await talk.append(PCM)
            await asyncio.to_thread(talk.sdk.commit)
            stages.next_calls("talker", Act("hang", 2))
            await asyncio.to_thread(talk.sdk.create_response)
            await talk.until("response.audio.delta", seen)
            await asyncio.to_thread(talk.sdk.cancel_response)
            done = (await talk.until("response.done", seen))["response"]
            assert done["status_details"]["reason"] == "client_cancelled"
            assert contents(asked(stages)[-1].messages[-1]) == ["audio"]


async def test_other_rates_and_the_newer_form_of_them(store: RedisServer) -> None:
    rates = AudioFormatConfig("pcm", 8000), AudioFormatConfig("pcm", 48_000)
    async with scripted(store) as stages:
        options: dict[str, Any] = {"input_audio_config": rates[0], "output_audio_config": rates[1]}
        async with talking(stages, enable_turn_detection=False, **options) as talk:
            shown = (await talk.until("session.updated"))["session"]["audio"]
            assert shown == {
                "input": {"format": {"type": "pcm", "sample_rate": 8000}},
                "output": {"format": {"type": "pcm", "sample_rate": 48_000}},
            }
            await asyncio.to_thread(talk.sdk.append_audio, encoded(bytes(16_000)))
            await asyncio.to_thread(talk.sdk.commit)
            await asyncio.to_thread(talk.sdk.create_response)
            await talk.until("response.done")
            assert len(talk.audio()) == 2 * len(stages.story.pcm)
            assert len(stages.preprocess[0].media[0][0]) == 44 + 48_000


@pytest.mark.filterwarnings("ignore:dashscope 2.0 audio API is a preview")
async def test_its_second_interface(store: RedisServer) -> None:
    def hold(url: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        client = Client(api_key=API_KEY, workspace="ours")
        with client.audio.realtime.connect(model=INSTRUCT.name, ws_url=url) as session:
            session.update_session(["text"], enable_turn_detection=False, enable_input_audio_transcription=False)
            session.append_audio(at_16_khz(PCM))
            session.append_video(jpeg())
            session.commit()
            session.create_response()
            session.end_session()
            events.extend(session.events())
        return events

    async with scripted(store) as stages:
        events = await asyncio.to_thread(hold, url_of(stages))
        assert events[-1]["type"] == "session.finished"
        (done,) = [event["response"] for event in events if event["type"] == "response.done"]
        assert done["output"][0]["content"][0]["text"] == stages.story.text
