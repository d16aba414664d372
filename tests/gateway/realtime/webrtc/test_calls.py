"""Calls over WebRTC: a real peer connection, a real gateway, scripted stages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.gateway.realtime.webrtc.limits import IceServers, WebRtcLimits
from services.gateway.realtime.webrtc.offer import offer_from
from services.gateway.turn.intent import Principal
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import FRAME_MS
from tests.gateway.realtime.test_client_secrets import WAITER, as_key, secret_of
from tests.gateway.realtime.webrtc.calling import CALLS, Caller, LoudStory, caller, calling, dialling, offer_of, post
from tests.gateway.scripted.stages import Stages, scripted_stages

WEBRTC: dict[str, Any] = {"webrtc": True, "webrtc_host": "127.0.0.1", "webrtc_port": 0}
ROOMY: dict[str, Any] = {
    **WEBRTC,
    "max_media_bytes": 4 << 20,
    "max_body_bytes": 16 << 20,
    "realtime_eager_silence_ms": 0,
}
VAD = {"type": "server_vad"}


@asynccontextmanager
async def served(store: RedisServer, frames: int = 4, words: int = 8, **settings: Any) -> AsyncGenerator[Stages]:
    given = {**ROOMY, **settings}
    async with scripted_stages(store.url, LoudStory(words=words, frames=frames), workers=1, slots=8, **given) as stages:
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


async def is_quiet(call: Caller) -> None:
    """Return once a quarter of a second of silence has come: nothing is sent behind more of it."""
    await wait_until(lambda: call.silent_frames >= 12)


async def test_speech_interrupts_and_the_conversation_keeps_what_was_sent(store: RedisServer) -> None:
    async with served(store, frames=600, words=300) as stages, calling(stages, VAD) as call:
        call.microphone.say(silence(400) + said("hello") + silence(900))
        await call.until("output_audio_buffer.started")
        call.microphone.say(said("hello") + silence(1500))
        cleared = await call.until("output_audio_buffer.cleared")
        done = (await call.until("response.done"))["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected")
        assert done["id"] == cleared["response_id"]
        truncated = await call.until("conversation.item.truncated")
        assert truncated["item_id"] == done["output"][0]["id"]
        # The second question is answered, and has what was heard of the first answer before it.
        await call.until("output_audio_buffer.started")
        assert truncated["audio_end_ms"] < 60_000
        told = stages.calls("preprocess")[-1].messages
        (heard,) = ["".join(part.text for part in one.parts) for one in told if one.role == "assistant"]
        assert stages.story.text.startswith(heard)
        assert len(heard) < len(stages.story.text)


async def test_a_client_clears_what_it_does_not_want_to_hear(store: RedisServer) -> None:
    async with served(store, frames=600) as stages, calling(stages) as call:
        await call.write("hello")
        await call.send("response.create")
        await call.until("output_audio_buffer.started")
        await wait_until(lambda: call.loud_frames > 10)
        await call.send("response.cancel")
        await call.send("output_audio_buffer.clear")
        await call.until("output_audio_buffer.cleared")
        truncated = await call.until("conversation.item.truncated")
        await is_quiet(call)
        # What the conversation has is what was heard: each frame is 20 ms, and Opus rings a little at the end.
        assert 10 < call.loud_frames <= truncated["audio_end_ms"] / 20 + 5
        wrong = await call.ask("output_audio_buffer.clear", "error", nothing=1, event_id="mine")
        assert (wrong["error"]["param"], wrong["error"]["event_id"]) == ("nothing", "mine")


async def test_what_was_cleared_of_an_answer_the_next_one_does_not_read(store: RedisServer) -> None:
    """Nothing is heard and nothing is asked between the end of the answer, which was not cancelled, and the next."""
    async with served(store, frames=30, words=8) as stages, calling(stages) as call:
        await call.write("hello")
        await call.send("response.create")
        await call.until("output_audio_buffer.started")
        await call.send("output_audio_buffer.clear")
        await call.until("response.done")
        await call.ask("response.create", "response.created")
        await call.until("output_audio_buffer.started")
        told = stages.calls("preprocess")[-1].messages
        heard = "".join(part.text for one in told if one.role == "assistant" for part in one.parts)
        assert len(heard) < len(stages.story.text)
        await call.ask("response.cancel", "response.done")


async def test_answers_do_not_speak_at_the_same_time(store: RedisServer) -> None:
    async with served(store) as stages, calling(stages) as call:
        await call.write("hello")
        for _ in range(2):
            await call.send("response.create", response={"conversation": "none"})
        told = [await call.until(f"output_audio_buffer.{what}") for what in ("started", "stopped") * 2]
        ids = [event["response_id"] for event in told]
        assert ids[0] == ids[1] != ids[2] == ids[3]
        await is_quiet(call)
        assert call.loud_frames >= 2 * 4 * FRAME_MS / 20 * 0.8


async def test_events_that_come_quicker_than_they_are_served_all_arrive(store: RedisServer) -> None:
    async with served(store) as stages, calling(stages) as call:
        ids = [f"event_{number}" for number in range(300)]
        padding = "item_" + "x" * 100
        for each in ids:
            await call.send("conversation.item.retrieve", item_id=padding, event_id=each)
        assert [(await call.until("error"))["error"]["event_id"] for _ in ids] == ids
        call.channel.send(b"\x00")
        assert (await call.until("error"))["error"]["code"] == "invalid_json"


async def test_a_call_ends_when_it_is_hung_up_or_its_client_leaves(store: RedisServer) -> None:
    async with served(store) as stages:
        async with calling(stages) as call:
            client = stages.gateway.client
            hung_up = await client.post(f"{call.location}/hangup")
            assert (hung_up.status_code, hung_up.content) == (200, b"")
            await wait_until(lambda: call.is_closed)
            await wait_until(lambda: is_over(stages))
            again = await client.post(f"{call.location}/hangup")
            assert (again.status_code, again.json()["error"]["code"]) == (404, "call_not_found")
        async with calling(stages) as call:
            await call.peer.close()
            await wait_until(lambda: is_over(stages))


async def test_a_form_has_the_offer_and_the_session(store: RedisServer) -> None:
    async with served(store) as stages:
        call = caller()
        try:
            offer, session = await offer_of(call.peer), {**WAITER, "model": INSTRUCT.name}
            form = {"sdp": (None, offer), "session": (None, json.dumps(session))}
            answer = await stages.gateway.client.post(CALLS, files=form)
            assert answer.status_code == 201, answer.text
            assert answer.headers["content-type"] == "application/sdp"
            assert answer.text.startswith("v=0")
        finally:
            await call.peer.close()
        for fields, param in (
            ({"session": (None, json.dumps({"instructions": 1}))}, "session.instructions"),
            ({"session": (None, "{")}, None),
            ({"other": (None, "1")}, "other"),
        ):
            wrong = await stages.gateway.client.post(CALLS, files={"sdp": (None, offer), **fields})
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, param), wrong.text
        too_large = await post(stages, offer + "a=x\r\n" * 20_000)
        assert (too_large.status_code, too_large.json()["error"]["param"]) == (413, "sdp")
        missing = await stages.gateway.client.post(CALLS, files={"session": (None, "{}")})
        assert missing.json()["error"]["param"] == "sdp"


async def test_a_client_secret_calls_with_its_settings(store: RedisServer) -> None:
    async with served(store) as stages:
        secret = await secret_of(stages, session=WAITER)
        async with dialling(secret, stages, query="") as call:
            session = (await call.until("session.created"))["session"]
            assert (session["instructions"], session["model"]) == (WAITER["instructions"], INSTRUCT.name)
        other = await post(stages, "v=0", secret, query="?model=another")
        assert other.status_code in (400, 403, 404)


async def test_a_drain_and_a_revoked_key_end_calls(store: RedisServer) -> None:
    async with served(store) as stages, calling(stages) as call:
        sessions = stages.gateway.gateway.sessions
        sessions._has_key = lambda _: False  # pyright: ignore[reportPrivateUsage]
        sessions.end_revoked()
        await wait_until(lambda: call.is_closed)
    async with served(store) as stages, calling(stages) as call:
        await asyncio.wait_for(stages.gateway.gateway.sessions.drain(), HANGS_AFTER_S)
        await wait_until(lambda: call.is_closed)
        late = await post(stages, "v=0\r\nm=audio 9 x 111\r\n")
        assert (late.status_code, late.json()["error"]["code"]) == (503, "unavailable")


async def test_nothing_is_made_for_who_has_no_key(store: RedisServer) -> None:
    async with served(store) as stages:
        call = caller()
        refused = await post(stages, await offer_of(call.peer), "wrong")
        assert refused.status_code == 401
        hung_up = await stages.gateway.client.post(f"{CALLS}/rtc_1/hangup", headers=as_key("wrong"))
        assert hung_up.status_code == 401
        await call.peer.close()
    assert API_KEY != "wrong"


async def test_an_offer_that_is_not_answered_before_the_end_is_told_so(store: RedisServer) -> None:
    from services.gateway.realtime.webrtc.calls import Calls, UdpPort

    call = caller()
    async with served(store) as stages:
        port = await UdpPort.open("127.0.0.1", 0)
        calls = Calls(stages.gateway.gateway.sessions, port, WebRtcLimits(), IceServers())
        offer = offer_from(await offer_of(call.peer), ())
        starting = asyncio.create_task(calls.start(Principal("acme", "acme"), None, offer, []))
        await asyncio.sleep(0)
        assert calls.count == 1
        await calls.close()
        with pytest.raises(Unavailable, match="shutting down"):
            await starting
        assert not calls.count
        port.close()
    await call.peer.close()
