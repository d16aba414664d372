"""Spoken conversations over the Live API, held by OpenAI's own client with a recorded voice."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import pytest

from services.common.errors import BadInput
from services.gateway.realtime.audio.formats import AudioFormat, AudioWriter
from services.gateway.realtime.live import silence
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.asides import TRANSCRIPT
from tests.gateway.realtime.live.conversing import (
    AUDIO,
    BEFORE,
    HEARD,
    SAID,
    USED,
    LiveClient,
    conversing,
    prompts,
    serving,
    utterance,
)
from tests.gateway.realtime.sounds import ms_of, said
from tests.gateway.realtime.sounds import silence as silent
from tests.gateway.realtime.talking import FRAME_MS
from tests.gateway.realtime.test_derailed_speech import each as derailing
from tests.gateway.realtime.test_derailed_speech import serving as derailed
from tests.gateway.scripted.script import Act


async def answered(client: LiveClient) -> None:
    """Wait for the end of the answer, and for the text of what the user said."""
    kinds = {USED, HEARD}
    seen: list[str] = []
    while USED not in seen or seen.count(HEARD) < len(TRANSCRIPT):
        event = await client.next()
        assert event.type != "error", event
        seen += [event.type] if event.type in kinds else []


async def test_a_spoken_turn_has_the_events_of_the_api(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages, instructions="Be kind.") as client:
        shown = client.events[0].session
        assert (shown.model, shown.status, shown.instructions) == (stages.card.name, "active", "Be kind.")
        assert (shown.audio.format.type, shown.audio.format.rate) == ("audio/pcm", 24_000)
        assert shown.delegation.type == "client"
        sound = utterance()
        await client.append(sound)
        await answered(client)
        assert set(client.types[1:]) == {AUDIO, SAID, HEARD, USED}
        assert client.audio() == stages.story.pcm
        assert client.transcript() == stages.story.text
        assert [event.delta for event in client.of(HEARD)] == list(TRANSCRIPT)
        assert prompts(stages) == [[("system", "Be kind."), ("user", "")]]


async def test_both_sides_have_their_places_on_one_clock(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages) as client:
        sound = utterance()
        await client.append(sound)
        await answered(client)
        # What the user said, as far as the transcript's turn goes: all of its fragments have the turn's place.
        ((start, end),) = {(event.start_ms, event.end_ms) for event in client.of(HEARD)}
        assert end - start >= ms_of(said("hello"))
        assert end <= client.of(USED)[-1].usage.seconds * 1000 + 1
        assert start >= BEFORE - 300 - 64
        spans = [(event.start_ms, event.end_ms) for event in client.of(AUDIO)]
        assert len(spans) == stages.story.frames
        # A packet that came late leaves a gap.
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
        assert all(abs(after - before - FRAME_MS) <= 1 for before, after in spans)
        texts = [(event.start_ms, event.end_ms) for event in client.of(SAID)]
        assert set(texts) <= set(spans)
        assert texts == sorted(texts)
        used = client.of(USED)[-1]
        assert used.usage.seconds * 1000 >= ms_of(sound)
        assert 0 < used.context_window.usage_ratio < 1


async def test_silence_follows_an_answer(store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By it LiveKit's client knows that the answer is over."""
    monkeypatch.setattr(silence, "SILENCE_MS", 400.0)
    async with serving(store) as stages, conversing(stages) as client:
        await client.append(utterance())
        await answered(client)
        speech_bytes, silent_bytes = len(stages.story.pcm), 2 * 24 * 400
        while len(client.audio()) < speech_bytes + silent_bytes:
            await client.until(AUDIO)
        assert client.audio() == stages.story.pcm + bytes(silent_bytes)
        spans = [(event.start_ms, event.end_ms) for event in client.of(AUDIO)][stages.story.frames - 1 :]
        assert len(spans) == 11
        assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))


async def test_speech_interrupts_an_answer(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages) as client:
        stages.next_calls("talker", Act("hang", 6))
        await client.append(utterance())
        for _ in range(6):
            await client.until(AUDIO)
        await client.append(utterance())
        await client.until(USED)
        cut = client.transcript()
        assert stages.story.text.startswith(cut)
        assert cut != stages.story.text
        assert client.audio() == stages.story.pcm[: 6 * 2 * 24 * FRAME_MS]
        await client.until(USED)
        (heard,) = [text for role, text in prompts(stages)[-1] if role == "assistant"]
        assert heard in {"".join(f"w{n} " for n in range(count)) for count in range(1, 7)}
        assert client.transcript() == cut + stages.story.text
        first, second = [event.start_ms for event in client.of(AUDIO)][5:7]
        assert second >= first + FRAME_MS


async def test_what_is_sent_is_little_ahead_of_a_client_that_plays_at_once(store: RedisServer) -> None:
    """A user who interrupts does not hear what was sent for much longer."""
    async with serving(store, realtime_lead_s=60.0) as stages, conversing(stages):
        (session,) = stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]
        assert session.limits.lead_s == 0.3


async def test_muted_the_user_is_not_heard(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages) as client:
        await client.connection.session.input_audio.mute(event_id="quiet")
        assert (await client.until("session.input_audio.muted")).client_event_id == "quiet"
        await client.append(utterance())
        await client.settled()
        assert not stages.calls("preprocess")
        await client.connection.session.input_audio.unmute(event_id="loud")
        assert (await client.until("session.input_audio.unmuted")).client_event_id == "loud"
        await client.append(utterance())
        await answered(client)
        assert len(prompts(stages)) == 1


async def test_a_mute_in_mid_speech_ends_the_turn(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages) as client:
        await client.append(silent(BEFORE) + said("hello"))
        await client.connection.session.input_audio.mute()
        await answered(client)
        await client.connection.session.input_audio.unmute()
        await client.append(utterance())
        await answered(client)
        first, *_, second = [(event.start_ms, event.end_ms) for event in client.of(HEARD)]
        assert first[1] <= second[0] + 300  # the padding of the second turn
        assert len(prompts(stages)) == 2


@pytest.mark.parametrize(
    ("audio_format", "kind", "rate"),
    [(AudioFormat.PCM_16K, "audio/pcm", 16_000), (AudioFormat.PCMU, "audio/pcmu", 8000)],
)
async def test_both_sides_have_the_format_of_the_start(
    store: RedisServer, audio_format: AudioFormat, kind: str, rate: int
) -> None:
    audio = {"format": {"type": kind, "rate": rate}, "output": {"voice": "chelsie"}}
    async with serving(store) as stages, conversing(stages, audio=audio) as client:
        shown = client.events[0].session.audio
        assert (shown.format.type, shown.format.rate, shown.output.voice) == (kind, rate, "chelsie")
        sound = bytes(AudioWriter(audio_format).write(utterance()))
        await client.append(sound, chunk_bytes=rate // 5)
        await answered(client)
        assert client.audio() == bytes(AudioWriter(audio_format).write(stages.story.pcm))
        assert stages.calls("talker")[-1].voice == "chelsie"


async def test_long_input_is_reported_as_used(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages) as client:
        await client.append(silent(21_000), chunk_bytes=48_000)
        await client.settled()
        assert [round(event.usage.seconds) for event in client.of(USED)] == [10, 20]
        assert not stages.calls("preprocess")


async def test_an_answer_and_a_transcript_that_fail_are_told(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages) as client:
        wrong = Act("raise", error=BadInput("The audio can't be read.", code="invalid_media"))
        stages.next_calls("preprocess", wrong, wrong)
        await client.append(utterance())
        while {"error", "info", USED} - set(client.types):
            await client.next()
        assert client.of("error")[0].error.code == client.of("info")[0].code == "invalid_media"
        await client.append(utterance())
        await answered(client)


@derailing
async def test_speech_that_left_its_text_is_told(
    store: RedisServer, course: dict[str, Any], told: dict[str, Any]
) -> None:
    async with derailed(store, course, told) as stages, conversing(stages) as client:
        await client.connection.session.commentary.append(content="Say hello.", delegation_id=None)
        await client.until(USED)
        infos = {event.code: event.message for event in client.of("info")}
        assert infos.keys() == told.keys()
        for code, what in told.items():
            assert str(what) in infos[code]


async def test_a_client_that_leaves_in_mid_answer_leaves_nothing(store: RedisServer) -> None:
    async with serving(store) as stages:
        async with conversing(stages) as client:
            stages.next_calls("talker", Act("hang", 2))
            await client.append(utterance())
            await client.until(AUDIO)
        await wait_until(lambda: not stages.gateway.gateway.sessions.count)


async def test_audio_that_is_wrong_is_told(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages) as client:
        for audio in ("", "not base64!", base64.b64encode(b"odd").decode()):
            error = await client.error("session.input_audio.append", audio=audio)
            assert error.param == "audio"
