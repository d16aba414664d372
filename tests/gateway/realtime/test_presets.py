"""Named prompts in sessions: what the model reads of each, and where they have no place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.asides import Asides
from tests.gateway.realtime.sounds import silence
from tests.gateway.realtime.talking import Client, talking
from tests.gateway.realtime.test_client_secrets import secret_of
from tests.gateway.realtime.test_eager import HELLO
from tests.gateway.realtime.test_semantic_vad import PAUSE, is_judged, judging
from tests.gateway.scripted.stages import Stages, scripted_stages

TO_GERMAN = {"name": "translation", "to_language": "de"}
TASK = "Listen to the provided speech and produce a translation in German text."
TEXT = {"output_modalities": ["text"]}


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url, Asides(frames=4), workers=1, slots=8) as running:
        yield running
        await wait_until(running.clean)


def read(stages: Stages) -> list[tuple[str, list[str]]]:
    """Return what the model read last: the role of each message, and its parts' kinds or texts."""
    calls = [call for call in [*stages.calls("preprocess"), *stages.calls("thinker")] if call.messages]
    return [(m.role, [part.text or part.WhichOneof("content") for part in m.parts]) for m in calls[-1].messages]


async def updated(client: Client, **session: Any) -> Any:
    return (await client.ask("session.update", "session.updated", session={"type": "realtime", **session})).session


async def answered(client: Client, **options: Any) -> Any:
    return (await client.ask("response.create", "response.done", response={**TEXT, **options})).response


async def test_a_session_does_its_task_with_each_thing_that_is_said(stages: Stages) -> None:
    async with talking(stages) as client:
        shown = await updated(client, antiphon_preset=TO_GERMAN)
        assert shown.antiphon_preset == TO_GERMAN
        await client.say()
        (answer,) = (await answered(client)).output
        assert read(stages) == [("user", ["audio", TASK])]
        await client.say()
        await answered(client)
        said = answer.content[0].text
        assert read(stages) == [("user", ["audio"]), ("assistant", [said]), ("user", ["audio", TASK])]
        # One response without it, or with another one.
        await answered(client, antiphon_preset=None)
        assert read(stages)[-2] == ("user", ["audio"])
        await client.say()
        await answered(client, antiphon_preset="lyrics")
        assert read(stages)[-1][1][1].startswith("Transcribe the song lyrics")
        shown = await updated(client, antiphon_preset=None)
        assert not hasattr(shown, "antiphon_preset")
        await client.say()
        await answered(client)
        assert read(stages)[-1] == ("user", ["audio"])


async def test_the_instructions_of_a_session_say_who_the_assistant_is(stages: Stages) -> None:
    async with talking(stages, instructions="You are Ada.", antiphon_preset="voice-assistant") as client:
        await client.write("hello")
        await answered(client)
        (role, (text,)), user = read(stages)
        assert (role, user) == ("system", ("user", ["hello"]))
        assert text.startswith("You are Ada. You are a virtual voice assistant")


async def test_the_sessions_of_a_secret_begin_with_its_preset(stages: Stages) -> None:
    session = {"type": "realtime", "antiphon_preset": "voice-assistant"}
    key = await secret_of(stages, session=session)
    async with talking(stages, key=key) as client:
        assert client.events[0].session.antiphon_preset == {"name": "voice-assistant"}
        await client.write("hello")
        await answered(client)
        assert read(stages)[0][1][0].startswith("You are Qwen-Omni, a smart voice assistant")


async def test_the_judgement_of_a_turn_reads_the_assistant_s_prompt_and_no_task(store: RedisServer) -> None:
    """Its prompt begins as that of the response, so that its cache serves both."""
    async with judging(store, "yes") as (stages, client):
        for preset in ("voice-assistant", TO_GERMAN):
            await updated(client, antiphon_preset=preset, **TEXT)
            await client.append(HELLO + PAUSE)
            await is_judged(stages)
            await client.append(silence(64))
            assert (await client.until("response.done")).response.status == "completed"
            judged, response = (list(start.messages) for start in stages.calls("preprocess")[-2:])
            assert judged[-1].parts[0].text.startswith("Listen to how the last recording ends.")
            assert [part.WhichOneof("content") for part in judged[-2].parts] == ["audio"]
            if preset == TO_GERMAN:
                assert [part.text for part in response[-1].parts] == ["", TASK]
            else:
                assert judged[:-1] == response
            for worker in stages.workers:
                worker.calls.clear()


async def test_a_preset_without_a_place_is_refused_and_the_session_goes_on(stages: Stages) -> None:
    async with talking(stages) as client:
        for preset, told in (("nothing", "'voice-assistant'"), ({"name": "lyrics", "language": "de"}, "no 'language'")):
            error = await client.error("session.update", session={"type": "realtime", "antiphon_preset": preset})
            assert error.param.startswith("session.antiphon_preset")
            assert told in error.message
        await updated(client, antiphon_preset=TO_GERMAN)
        nothing = await client.error("response.create", response=TEXT)
        assert nothing.code == "no_input"
        await client.write("hello")
        error = await client.error("response.create", response=TEXT)
        assert (error.param, "the last message holds none" in error.message) == ("antiphon_preset", True)
        await client.say()
        assert (await answered(client)).status == "completed"
