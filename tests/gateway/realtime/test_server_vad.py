"""Conversations in which the server hears when a turn is over, held by OpenAI's own client with a recorded voice."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.gateway.realtime.conversation import wav_of
from services.gateway.realtime.pacing import Lead
from services.gateway.realtime.respond import RunningResponse
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.sounds import cough, hum, ms_of, noise, said, silence
from tests.gateway.realtime.talking import FRAME_MS, Client, LongStory, talking
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

LEAD_S = 0.2
ROOMY: dict[str, Any] = {"max_media_bytes": 4 << 20, "max_body_bytes": 16 << 20, "realtime_lead_s": LEAD_S}
EAGER_OFF: dict[str, Any] = {**ROOMY, "realtime_eager_silence_ms": 0}
"""No response begins before its turn is over."""
VAD = {"type": "server_vad"}
BEFORE = 400
"""Milliseconds of silence before what is said."""
DELTAS = ("response.output_audio.delta", "response.output_audio_transcript.delta")


@asynccontextmanager
async def conversation(
    store: RedisServer, frames: int = 4, turn_detection: dict[str, Any] = VAD, **settings: Any
) -> AsyncGenerator[tuple[Stages, Client]]:
    given = {**EAGER_OFF, **settings}
    async with scripted_stages(store.url, LongStory(frames=frames), workers=1, slots=8, **given) as stages:
        async with talking(stages, turn_detection) as client:
            yield stages, client
        await wait_until(stages.clean)
        await wait_until(lambda: stages.gateway.gateway.memory.budget.held_bytes == 0)


def utterance(name: str = "hello") -> bytes:
    return silence(BEFORE) + said(name) + silence(900)


def transcripts(stages: Stages) -> list[str]:
    """Return the assistant's texts in the last prompt."""
    return [
        "".join(part.text for part in message.parts)
        for message in stages.calls("preprocess")[-1].messages
        if message.role == "assistant"
    ]


async def heard_of_an_answer(client: Client, packets: int) -> str:
    """Ask, and return the answer's item once so many packets of its speech have come."""
    await client.append(utterance())
    deltas = [await client.until("response.output_audio.delta") for _ in range(packets)]
    return deltas[0].item_id


async def test_a_spoken_turn_has_the_events_of_the_api_in_order(store: RedisServer) -> None:
    async with conversation(store) as (stages, client):
        sound = utterance()
        await client.append(sound)
        await client.until("response.done")
        events = [event for event in client.events[2:] if event.type not in DELTAS]
        assert [event.type for event in events] == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]
        started, stopped, committed, added = events[:4]
        assert started.item_id == stopped.item_id == committed.item_id == added.item.id
        start, end = started.audio_start_ms, stopped.audio_end_ms
        assert BEFORE - 300 - 64 <= start <= BEFORE - 300 + 200
        assert start + 300 < end - 500 <= BEFORE + ms_of(said("hello")) + 150
        ((sent,),) = stages.preprocess[0].media
        assert sent == wav_of(sound[48 * start : 48 * end])
        assert client.audio() == stages.story.pcm


async def test_turns_follow_each_other_and_their_audio_does_not_overlap(store: RedisServer) -> None:
    async with conversation(store, turn_detection={**VAD, "silence_duration_ms": 200}) as (stages, client):
        for name in ("hello", "tt-weasels"):
            await client.append(utterance(name), chunk_bytes=48 * 7)
            await client.until("response.done")
        places = [
            (event.audio_start_ms, stop.audio_end_ms)
            for event, stop in zip(
                [event for event in client.events if event.type == "input_audio_buffer.speech_started"],
                [event for event in client.events if event.type == "input_audio_buffer.speech_stopped"],
                strict=True,
            )
        ]
        assert len(places) == 2
        assert places[0][1] <= places[1][0]
        assert len(stages.preprocess[0].media[-1]) == 2


async def test_nobody_speaks(store: RedisServer) -> None:
    async with conversation(store) as (stages, client):
        for sound in (silence(1000), noise(1000), hum(1000), cough(), said("beep")):
            await client.append(sound + silence(300))
        await client.settled()
        assert client.types == ["session.created", "session.updated", "error"]
        assert not stages.calls("preprocess")
        # What belongs to no turn is forgotten.
        (session,) = stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]
        assert session.buffer.size_bytes <= 48 * 600


async def test_a_turn_may_be_left_without_an_answer(store: RedisServer) -> None:
    async with conversation(store, turn_detection={**VAD, "create_response": False}) as (_, client):
        await client.append(utterance())
        await client.settled()
        assert client.types[-4:] == [
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "error",
        ]
        await client.ask("response.create", "response.done")


async def test_the_client_may_commit_in_mid_speech(store: RedisServer) -> None:
    async with conversation(store) as (stages, client):
        await client.append(silence(BEFORE) + said("tt-weasels")[: 48 * 1500])
        started = await client.until("input_audio_buffer.speech_started")
        committed = await client.ask("input_audio_buffer.commit", "input_audio_buffer.committed")
        assert committed.item_id == started.item_id
        await client.append(silence(2000))
        await client.settled()
        assert "input_audio_buffer.speech_stopped" not in client.types
        assert not stages.calls("preprocess")


async def test_cleared_speech_is_forgotten(store: RedisServer) -> None:
    async with conversation(store) as (_, client):
        await client.append(silence(BEFORE) + said("hello"))
        await client.until("input_audio_buffer.speech_started")
        await client.ask("input_audio_buffer.clear", "input_audio_buffer.cleared")
        await client.append(silence(2000))
        await client.settled()
        assert client.types[-2:] == ["input_audio_buffer.cleared", "error"]


async def test_the_longest_item_ends_a_turn(store: RedisServer) -> None:
    longest_ms = 1200
    detection = {**VAD, "create_response": False}
    async with conversation(store, turn_detection=detection, max_media_bytes=48 * longest_ms) as (stages, client):
        await client.append(silence(BEFORE) + said("tt-weasels") + silence(900))
        await client.settled()
        await client.ask("response.create", "response.done")
        stops = [event for event in client.events if event.type == "input_audio_buffer.speech_stopped"]
        (heard,) = stages.preprocess[0].media
        assert len(heard) == len(stops) > 1
        assert all(len(wav) <= 48 * longest_ms + 44 for wav in heard)


# Barge-in


async def test_speech_interrupts_and_the_clock_says_what_was_heard(store: RedisServer) -> None:
    async with conversation(store, frames=8) as (stages, client):
        stages.next_calls("talker", Act("hang", 6))
        item_id = await heard_of_an_answer(client, 6)
        seen = len(client.events)
        await client.append(utterance())
        done = (await client.until("response.done")).response
        assert (done.status, done.status_details.reason) == ("cancelled", "turn_detected")
        assert done.output[0].id == item_id
        interrupted = [event.type for event in client.events[seen:] if event.type != DELTAS[1]]
        assert interrupted == [
            "input_audio_buffer.speech_started",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]
        await client.until("response.done")
        # All six frames were sent; how many of them the clock has played depends on the time that went by.
        (heard,) = transcripts(stages)
        assert heard in {"".join(f"w{n} " for n in range(count)) for count in range(1, 7)}


async def test_the_clients_word_of_what_was_heard_counts(store: RedisServer) -> None:
    async with conversation(store, frames=8) as (stages, client):
        stages.next_calls("talker", Act("hang", 6))
        item_id = await heard_of_an_answer(client, 6)
        await client.append(silence(BEFORE) + said("hello"))
        await client.until("response.done")
        heard_ms = 4 * FRAME_MS - 50
        await client.ask(
            "conversation.item.truncate",
            "conversation.item.truncated",
            item_id=item_id,
            content_index=0,
            audio_end_ms=heard_ms,
        )
        await client.append(silence(900))
        await client.until("response.done")
        # The talker had read four words, and a word takes 280 ms.
        assert transcripts(stages) == ["w0 w1 "]


async def test_an_answer_that_was_sent_but_not_played_is_interrupted_too(store: RedisServer) -> None:
    """The whole answer, 4 s, was sent ahead: the client has played some of it."""
    async with conversation(store, frames=40, realtime_lead_s=60) as (stages, client):
        await client.append(utterance())
        done = await client.until("response.done")
        assert done.response.status == "completed"
        await client.append(utterance())
        await client.until("input_audio_buffer.speech_started")
        await client.until("response.done")
        (heard,) = transcripts(stages)
        assert stages.story.text.startswith(heard)
        assert heard != stages.story.text


@pytest.mark.parametrize("sound", [cough(), silence(100), noise(300, 0.1)])
async def test_what_is_too_short_does_not_interrupt(store: RedisServer, sound: bytes) -> None:
    async with conversation(store) as (stages, client):
        stages.next_calls("talker", Act("hang", 2))
        await heard_of_an_answer(client, 2)
        await client.append(sound + silence(400))
        await client.settled()
        done = (await client.ask("response.cancel", "response.done")).response
        assert done.status_details.reason == "client_cancelled"
        assert client.types.count("input_audio_buffer.speech_started") == 1


async def test_a_short_voice_does_not_interrupt_though_the_detector_hears_it_longer(store: RedisServer) -> None:
    async with conversation(store) as (stages, client):
        stages.next_calls("talker", Act("hang", 2))
        await heard_of_an_answer(client, 2)
        for name, begins_ms in (("digits/1", 160), ("digits/4", 170), ("hello", 100)):
            await client.append(said(name)[48 * begins_ms : 48 * (begins_ms + 250)] + silence(280))
        await client.settled()
        done = (await client.ask("response.cancel", "response.done")).response
        assert done.status_details.reason == "client_cancelled"
        assert client.types.count("input_audio_buffer.speech_started") == 1


async def test_what_may_become_an_interruption_keeps_audio_back(
    store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Lead] = []
    keep = RunningResponse.keep

    def noted(running: RunningResponse, lead: Lead) -> None:
        kept.append(lead)
        keep(running, lead)

    monkeypatch.setattr(RunningResponse, "keep", noted)
    async with conversation(store) as (stages, client):
        stages.next_calls("talker", Act("hang", 2))
        await heard_of_an_answer(client, 2)
        await client.append(said("digits/1")[48 * 160 : 48 * 410])
        await client.settled()
        assert kept == [Lead.CLOSE]
        await client.append(silence(280))
        await client.settled()
        assert kept == [Lead.CLOSE, Lead.FULL]
        await client.append(said("hello"))
        assert (await client.until("response.done")).response.status_details.reason == "turn_detected"
        assert kept[:4] == [Lead.CLOSE, Lead.FULL, Lead.CLOSE, Lead.NONE]
        await client.append(silence(900))
        assert (await client.until("response.done")).response.status == "completed"


async def test_a_short_word_does_not_interrupt_where_more_is_asked_for(store: RedisServer) -> None:
    async with conversation(store, realtime_interrupt_speech_ms=2000) as (stages, client):
        stages.next_calls("talker", Act("hang", 2))
        await heard_of_an_answer(client, 2)
        await client.append(utterance())
        await client.settled()
        done = (await client.ask("response.cancel", "response.done")).response
        assert done.status_details.reason == "client_cancelled"
        assert client.types.count("input_audio_buffer.speech_started") == 1


async def test_an_answer_that_may_not_be_interrupted_is_followed_by_the_next(store: RedisServer) -> None:
    detection = {**VAD, "interrupt_response": False}
    async with conversation(store, turn_detection=detection) as (stages, client):
        stages.talker[0].may_pull.clear()
        await client.append(utterance())
        await client.until("response.created")
        await client.append(utterance())
        second = (await client.until("conversation.item.done")).item
        stages.talker[0].may_pull.set()
        assert (await client.until("response.done")).response.status == "completed"
        created = await client.until("conversation.item.added")
        assert (await client.until("response.done")).response.status == "completed"
        assert second.role == "user"
        assert created.item.role == "assistant"
        assert len(stages.preprocess[0].media[-1]) == 2


async def test_a_client_that_leaves_in_mid_speech_leaves_nothing(store: RedisServer) -> None:
    async with conversation(store, realtime_eager_silence_ms=64) as (stages, client):
        stages.next_calls("thinker", Act("hang"))
        await client.append(silence(BEFORE) + said("hello") + silence(350))
        await wait_until(lambda: stages.calls("thinker"))


# Options


async def test_options_are_shown_and_may_change_in_mid_speech(store: RedisServer) -> None:
    async with conversation(store, turn_detection={**VAD, "threshold": 0.6, "prefix_padding_ms": 100}) as (_, client):
        shown = client.events[-1].session.audio.input.turn_detection
        assert (shown.threshold, shown.prefix_padding_ms, shown.silence_duration_ms) == (0.6, 100, 500)
        assert (shown.create_response, shown.interrupt_response, shown.idle_timeout_ms) == (True, True, None)
        await client.append(silence(BEFORE) + said("hello"))
        started = await client.until("input_audio_buffer.speech_started")
        detection = {**VAD, "create_response": False, "silence_duration_ms": 300}
        session = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
        await client.ask("session.update", "session.updated", session=session)
        await client.append(silence(900))
        assert (await client.until("input_audio_buffer.committed")).item_id == started.item_id
        session = {"type": "realtime", "instructions": "Be kind."}
        updated = await client.ask("session.update", "session.updated", session=session)
        assert updated.session.audio.input.turn_detection.silence_duration_ms == 300


async def test_turns_may_become_manual_and_back(store: RedisServer) -> None:
    async with conversation(store) as (stages, client):
        manual: dict[str, Any] = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
        await client.ask("session.update", "session.updated", session=manual)
        await client.append(utterance())
        await client.ask("input_audio_buffer.commit", "conversation.item.done")
        assert "input_audio_buffer.speech_started" not in client.types
        assert not stages.calls("preprocess")
        vad = {"type": "realtime", "audio": {"input": {"turn_detection": VAD}}}
        await client.ask("session.update", "session.updated", session=vad)
        await client.append(utterance())
        started = await client.until("input_audio_buffer.speech_started")
        assert started.audio_start_ms > ms_of(utterance())
        await client.until("response.done")
        (sent,) = stages.preprocess[0].media
        assert sent[0] == wav_of(utterance())


async def test_a_user_who_says_nothing_is_asked_again(store: RedisServer) -> None:
    async with conversation(store, frames=2, turn_detection={**VAD, "idle_timeout_ms": 5000}) as (stages, client):
        await client.append(utterance())
        await client.until("response.done")
        await client.append(silence(1000))
        timed_out = await client.until("input_audio_buffer.timeout_triggered")
        committed = await client.until("input_audio_buffer.committed")
        assert committed.item_id == timed_out.item_id
        assert 0 <= timed_out.audio_end_ms - timed_out.audio_start_ms <= 1000
        await client.until("response.done")
        assert len(stages.preprocess[0].media[-1]) == 2
