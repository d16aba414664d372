"""Turns whose end the model judges."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import pytest

from antiphon.v1 import common_pb2
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.realtime.asides import JUDGED, Asides, kind_of
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import Client, talking
from tests.gateway.realtime.test_eager import GOES_ON, HELLO
from tests.gateway.realtime.test_server_vad import ROOMY
from tests.gateway.responses.conftest import WEATHER
from tests.gateway.responses.conftest import card as tools_card
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

HIGH = {"type": "semantic_vad", "eagerness": "high"}
"""Ends a turn after 200 ms of silence where the user has finished, 600 where nobody knows, 2000 where they go on."""
PAUSE = silence(320)


@asynccontextmanager
async def judging(
    store: RedisServer,
    judged: str,
    model: common_pb2.ModelCard = INSTRUCT,
    session: Mapping[str, Any] = MappingProxyType({}),
    frames: int = 4,
    **settings: Any,
) -> AsyncGenerator[tuple[Stages, Client]]:
    card = common_pb2.ModelCard(structures_answers=True)
    card.MergeFrom(model)
    given: dict[str, Any] = {**ROOMY, "realtime_eager_silence_ms": 0, **settings}
    story = Asides(frames=frames, judged=judged)
    async with scripted_stages(store.url, story, card=card, workers=1, slots=8, **given) as stages:
        async with talking(stages, HIGH, **session) as client:
            yield stages, client
        await wait_until(stages.clean)
        await wait_until(lambda: stages.gateway.gateway.memory.budget.held_bytes == 0)


async def is_judged(stages: Stages, times: int = 1) -> None:
    """Return once the session knows what was judged of the pause that is heard, or has ended the turn by that."""
    (session,) = stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]

    def known() -> bool:
        judging = session._taking._judging  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        return judgements(stages) == times and (judging is None or judging.done())

    await wait_until(known)


async def hangs(stages: Stages) -> None:
    """Return once a thinker hangs. A call that ended before would leave that to the next one."""
    await wait_until(lambda: stages.hanging("thinker"))


def judgements(stages: Stages) -> int:
    return sum(kind_of(start) == JUDGED for start in stages.calls("preprocess"))


async def test_a_user_who_has_finished_is_answered_at_once(store: RedisServer) -> None:
    async with judging(store, "yes") as (stages, client):
        await client.append(HELLO + PAUSE)
        await is_judged(stages)
        await client.append(silence(64))
        stopped = await client.until("input_audio_buffer.speech_stopped")
        done = (await client.until("response.done")).response
        assert done.status == "completed"
        assert client.audio() == stages.story.pcm
        assert stopped.audio_end_ms < len(HELLO + silence(600)) // 48
        (judged, _) = stages.calls("thinker")
        assert list(judged.structure.choices.texts) == ["yes", "no"]
        # The prompt of the response begins as that of the question.
        first, second = stages.calls("preprocess")
        assert [m.role for m in first.messages] == ["user", "user"]
        assert [m.role for m in second.messages] == ["user"]


async def test_the_question_names_the_tools_that_the_response_may_call(store: RedisServer) -> None:
    session = {"instructions": "Be brief.", "tools": [WEATHER]}
    async with judging(store, "yes", model=tools_card(), session=session) as (stages, client):
        await client.append(HELLO + PAUSE)
        await is_judged(stages)
        await client.append(silence(64))
        stopped = await client.until("input_audio_buffer.speech_stopped")
        assert stopped.audio_end_ms < len(HELLO + silence(600)) // 48  # judged, not timed out
        assert (await client.until("response.done")).response.status == "completed"
        question, answer = stages.calls("preprocess")
        assert [message.role for message in question.messages] == ["system", "user", "user"]
        assert question.messages[0] == answer.messages[0]
        assert question.tools_json == answer.tools_json != ""


async def test_who_speaks_beside_an_answer_is_judged_with_what_was_heard_of_it(store: RedisServer) -> None:
    async with judging(store, "yes", frames=8) as (stages, client):
        stages.next_calls("talker", Act("hang", 6))
        detection = {**HIGH, "interrupt_response": False}
        session = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
        await client.ask("session.update", "session.updated", session=session)
        await client.append(HELLO + PAUSE)
        await is_judged(stages)
        await client.append(silence(64))
        for _ in range(4):
            await client.until("response.output_audio.delta")
        await client.append(HELLO + PAUSE)
        await is_judged(stages, times=2)
        question = stages.calls("preprocess")[-1]
        assert [message.role for message in question.messages][-3:] == ["assistant", "user", "user"]
        assert stages.story.text.startswith(question.messages[-3].parts[0].text)
        await client.ask("response.cancel", "response.done")


async def test_a_user_who_will_go_on_has_more_time(store: RedisServer) -> None:
    async with judging(store, "no") as (stages, client):
        await client.append(HELLO + PAUSE)
        await is_judged(stages)
        await client.append(silence(900))
        await client.settled()
        assert "input_audio_buffer.speech_stopped" not in client.types
        await client.append(GOES_ON + PAUSE)
        await is_judged(stages, times=2)
        await client.append(silence(1000))
        await client.settled()
        assert "input_audio_buffer.speech_stopped" not in client.types
        await client.append(silence(1000))
        assert (await client.until("response.done")).response.status == "completed"
        assert client.types.count("input_audio_buffer.committed") == 1


@pytest.mark.parametrize("act", [None, Act("hang")])
async def test_silence_decides_where_nothing_is_judged(store: RedisServer, act: Act | None) -> None:
    """The model says neither, or nothing in time."""
    async with judging(store, "perhaps") as (stages, client):
        if act is not None:
            stages.next_calls("thinker", act)
        await client.append(HELLO + PAUSE)
        await (is_judged(stages) if act is None else hangs(stages))
        await client.settled()
        assert "input_audio_buffer.speech_stopped" not in client.types
        await client.append(silence(500))
        await client.until("input_audio_buffer.speech_stopped")
        assert (await client.until("response.done")).response.status == "completed"


async def test_an_answer_is_begun_while_the_end_is_judged(store: RedisServer) -> None:
    async with judging(store, "yes", realtime_eager_silence_ms=200) as (stages, client):
        await client.append(HELLO + PAUSE)
        await is_judged(stages)
        await wait_until(lambda: stages.calls("talker"))
        await client.append(silence(64))
        assert (await client.until("response.done")).response.status == "completed"
        assert client.audio() == stages.story.pcm
        assert len(stages.calls("thinker")) == 2


async def test_an_answer_to_a_user_who_will_go_on_is_thrown_away(store: RedisServer) -> None:
    async with judging(store, "no", realtime_eager_silence_ms=200) as (stages, client):
        await client.append(HELLO + PAUSE)
        await is_judged(stages)
        await wait_until(lambda: stages.calls("talker"))
        await client.append(silence(64))
        await wait_until(stages.clean)
        await client.settled()
        assert "input_audio_buffer.speech_stopped" not in client.types
        await client.append(silence(2000))
        assert (await client.until("response.done")).response.status == "completed"
        assert len(stages.calls("talker")) == 2


async def test_speech_ends_a_judgement(store: RedisServer) -> None:
    async with judging(store, "yes") as (stages, client):
        stages.next_calls("thinker", Act("hang"))
        await client.append(HELLO + PAUSE)
        await hangs(stages)
        await client.append(said("hello")[48 * 110 :])
        await wait_until(stages.clean)
        await client.append(PAUSE)
        await is_judged(stages, times=2)
        await client.append(silence(64))
        assert (await client.until("response.done")).response.status == "completed"


async def test_its_options_are_shown_and_checked(store: RedisServer) -> None:
    async with judging(store, "yes") as (_, client):
        shown = client.events[-1].session.audio.input.turn_detection
        assert shown.to_dict() == {**HIGH, "create_response": True, "interrupt_response": True}

        async def update(**detection: Any) -> dict[str, Any]:
            audio = {"input": {"turn_detection": {"type": "semantic_vad", **detection}}}
            return {"session": {"type": "realtime", "audio": audio}}

        updated = await client.ask("session.update", "session.updated", **await update())
        assert updated.session.audio.input.turn_detection.eagerness == "auto"
        error = await client.error("session.update", **await update(eagerness="greedy"))
        assert error.param.startswith("session.audio.input.turn_detection")
        error = await client.error("session.update", **await update(threshold=0.3))
        assert error.code == "unknown_parameter"
