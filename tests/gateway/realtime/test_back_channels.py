"""Sounds over an answer, too long for a click and too short for an interruption: the answer is held meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from antiphon.v1 import common_pb2
from services.gateway.realtime.pacing import Lead
from services.gateway.realtime.respond import RunningResponse
from services.gateway.realtime.session import Session
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.realtime.asides import WEIGHED, Asides, kind_of
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import Client, talking
from tests.gateway.realtime.test_semantic_vad import hangs
from tests.gateway.realtime.test_server_vad import BEFORE, EAGER_OFF, VAD, heard_of_an_answer, transcripts
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

STARTED, DELTA = "input_audio_buffer.speech_started", "response.output_audio.delta"
SOUND = said("hello")[48 * 140 : 48 * 540]
"""400 ms of a voice."""
OVER = silence(224)
"""After which a sound is over."""


@asynccontextmanager
async def answering(
    store: RedisServer, weighed: str, frames: int = 8, **settings: Any
) -> AsyncGenerator[tuple[Stages, Client]]:
    """`weighed`: what the model says about brief sounds."""
    card = common_pb2.ModelCard(structures_answers=True)
    card.MergeFrom(INSTRUCT)
    given = {**EAGER_OFF, **settings}
    story = Asides(frames=frames, weighed=weighed)
    async with scripted_stages(store.url, story, card=card, workers=1, slots=8, **given) as stages:
        async with talking(stages, VAD) as client:
            yield stages, client
        await wait_until(stages.clean)
        await wait_until(lambda: stages.gateway.gateway.memory.budget.held_bytes == 0)


def session_of(stages: Stages) -> Session:
    (session,) = stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]
    return session


async def is_weighed(stages: Stages) -> None:
    """Return once the session knows what the model says about the sound, or has decided by that."""

    def known() -> bool:
        undecided = session_of(stages)._taking._undecided  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        return questions(stages) > 0 and (undecided is None or undecided.judging.done())

    await wait_until(known)


def questions(stages: Stages) -> int:
    return sum(kind_of(start) == WEIGHED for start in stages.calls("preprocess"))


@pytest.fixture
def leads(monkeypatch: pytest.MonkeyPatch) -> list[Lead]:
    """How far answers might be ahead, change by change."""
    kept: list[Lead] = []
    keep = RunningResponse.keep

    def noted(running: RunningResponse, lead: Lead) -> None:
        kept.append(lead)
        keep(running, lead)

    monkeypatch.setattr(RunningResponse, "keep", noted)
    return kept


@pytest.mark.parametrize("weighed", ["no", "perhaps"])
async def test_a_back_channel_holds_the_answer_which_then_goes_on(
    store: RedisServer, leads: list[Lead], weighed: str
) -> None:
    async with answering(store, weighed, frames=40) as (stages, client):
        await heard_of_an_answer(client, 2)
        await client.append(SOUND + OVER)
        await client.settled()
        assert leads[:2] == [Lead.CLOSE, Lead.NONE]
        await is_weighed(stages)
        await client.append(silence(32))
        assert (await client.until("response.done")).response.status == "completed"
        assert client.audio() == stages.story.pcm
        assert client.types.count(STARTED) == 1
        assert leads == [Lead.CLOSE, Lead.NONE, Lead.FULL]
        assert len(list(session_of(stages).conversation)) == 2


async def test_a_word_that_is_meant_interrupts_and_is_the_next_turn(store: RedisServer) -> None:
    async with answering(store, "yes") as (stages, client):
        stages.next_calls("talker", Act("hang", 2))
        await heard_of_an_answer(client, 2)
        began_ms = session_of(stages).buffer.end // 24
        await client.append(SOUND + OVER)
        await is_weighed(stages)
        await client.append(silence(900))
        started = await client.until(STARTED)
        assert began_ms - 300 - 64 <= started.audio_start_ms <= began_ms + 100
        done = (await client.until("response.done")).response
        assert (done.status, done.status_details.reason) == ("cancelled", "turn_detected")
        assert (await client.until("response.done")).response.status == "completed"
        assert questions(stages) == 1


async def test_the_model_is_asked_with_what_was_heard_of_the_answer(store: RedisServer) -> None:
    async with answering(store, "no", frames=24) as (stages, client):
        item_id = await heard_of_an_answer(client, 12)
        await client.append(SOUND + OVER)
        await is_weighed(stages)
        await client.append(silence(32))
        assert (await client.until("response.done")).response.status == "completed"
        (asked,) = [start for start in stages.calls("preprocess") if kind_of(start) == WEIGHED]
        assert [message.role for message in asked.messages] == ["user", "assistant", "user", "user"]
        heard = asked.messages[1].parts[0].text
        assert heard
        assert stages.story.text.startswith(heard)
        assert len(heard) < len(stages.story.text)
        # Of the conversation nothing is cut by that.
        answer = (await client.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=item_id)).item
        assert (answer.status, answer.content[0].transcript) == ("completed", stages.story.text)
        await client.write("go on")
        await client.ask("response.create", "response.done", response={"output_modalities": ["text"]})
        assert transcripts(stages) == [stages.story.text]


async def test_who_goes_on_interrupts_from_the_first_sound_on(store: RedisServer) -> None:
    async with answering(store, "no") as (stages, client):
        stages.next_calls("talker", Act("hang", 2))
        await heard_of_an_answer(client, 2)
        stages.next_calls("thinker", Act("hang"))
        began_ms = session_of(stages).buffer.end // 24
        await client.append(SOUND + OVER)
        await hangs(stages)
        await client.append(said("tt-weasels")[: 48 * 1500] + silence(900))
        started = await client.until(STARTED)
        assert started.audio_start_ms <= began_ms + 100
        assert (await client.until("response.done")).response.status == "cancelled"
        assert (await client.until("response.done")).response.status == "completed"


async def test_a_model_that_says_nothing_in_time_lets_the_answer_go_on(store: RedisServer, leads: list[Lead]) -> None:
    async with answering(store, "yes") as (stages, client):
        stages.next_calls("talker", Act("hang", 2))
        await heard_of_an_answer(client, 2)
        stages.next_calls("thinker", Act("hang"))
        await client.append(SOUND + OVER)
        await hangs(stages)
        await client.append(silence(640))
        await client.settled()
        assert leads == [Lead.CLOSE, Lead.NONE, Lead.FULL]
        done = (await client.ask("response.cancel", "response.done")).response
        assert done.status_details.reason == "client_cancelled"
        assert client.types.count(STARTED) == 1


async def test_who_speaks_briefly_as_an_answer_ends_has_their_turn(store: RedisServer) -> None:
    """All of the answer was sent, and its client has played it before it is decided what the sound was."""
    async with answering(store, "no", frames=10, realtime_lead_s=60) as (stages, client):
        await client.append(silence(BEFORE) + said("hello") + silence(900))
        await client.until("response.done")
        stages.next_calls("thinker", Act("hang"))
        await client.append(SOUND + OVER)
        await hangs(stages)
        assert client.types.count(STARTED) == 1
        await wait_until(lambda: not session_of(stages).is_heard)
        await client.append(silence(900))
        await client.until(STARTED)
        assert (await client.until("response.done")).response.status == "completed"


async def test_an_answer_that_begins_under_a_sound_is_held_too(store: RedisServer, leads: list[Lead]) -> None:
    """What plays yet is all of the answer before, of which nothing is left to send."""
    async with answering(store, "no", frames=200, realtime_lead_s=60) as (stages, client):
        await client.append(silence(BEFORE) + said("hello") + silence(900))
        await client.until("response.done")
        stages.next_calls("thinker", Act("hang"))
        await client.append(SOUND + OVER)
        await hangs(stages)
        assert not leads
        await client.ask("response.create", "response.created")
        await wait_until(lambda: leads == [Lead.NONE])
        await client.ask("response.cancel", "response.done")


async def test_a_client_that_finishes_lets_a_held_answer_go_on(store: RedisServer, leads: list[Lead]) -> None:
    async with answering(store, "no", frames=20) as (stages, client):
        await heard_of_an_answer(client, 2)
        stages.next_calls("thinker", Act("hang"))
        await client.append(SOUND + OVER)
        await hangs(stages)
        await session_of(stages).finish()
        assert leads == [Lead.CLOSE, Lead.NONE, Lead.FULL]
        assert (await client.until("response.done")).response.status == "completed"


async def test_without_a_longest_back_channel_such_a_sound_interrupts(store: RedisServer, leads: list[Lead]) -> None:
    async with answering(store, "no", realtime_back_channel_ms=0) as (stages, client):
        stages.next_calls("talker", Act("hang", 2))
        await heard_of_an_answer(client, 2)
        await client.append(SOUND + silence(900))
        await client.until(STARTED)
        assert (await client.until("response.done")).response.status_details.reason == "turn_detected"
        assert (await client.until("response.done")).response.status == "completed"
        assert not questions(stages)


async def test_speech_of_the_client_that_is_committed_lets_a_held_answer_go_on(
    store: RedisServer, leads: list[Lead]
) -> None:
    async with answering(store, "no") as (stages, client):
        stages.next_calls("talker", Act("hang", 2))
        await heard_of_an_answer(client, 2)
        stages.next_calls("thinker", Act("hang"))
        await client.append(SOUND + OVER)
        await hangs(stages)
        await client.ask("input_audio_buffer.clear", "input_audio_buffer.cleared")
        assert leads == [Lead.CLOSE, Lead.NONE, Lead.FULL]
        await client.ask("response.cancel", "response.done")
