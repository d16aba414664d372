"""What the application and the model tell each other beside the conversation."""

from __future__ import annotations

from typing import Any

from tests.fixtures.redis import RedisServer
from tests.gateway.realtime.live.conversing import (
    AUDIO,
    BEFORE,
    USED,
    Delegating,
    calling_card,
    conversing,
    prompts,
    serving,
    utterance,
)
from tests.gateway.realtime.sounds import said, silence

TO_SAY = "Tell the user now, in your own words:\n"
SILENT = "For your information. Do not say it unless it is asked for:\n"


async def test_the_model_delegates_and_says_what_came_of_it(store: RedisServer) -> None:
    story = Delegating(said=(), frames=4)
    async with serving(store, story, card=calling_card()) as stages, conversing(stages) as client:
        context = client.connection.session
        await client.append(utterance())
        created = await client.until("session.delegation.created")
        delegation = created.delegation
        assert (delegation.type, delegation.target, delegation.response_id) == ("delegation", "client", None)
        assert delegation.antiphon_task == "Book a table"
        assert created.offset_ms >= 0
        await client.until(USED)
        assert client.transcript().strip() == "Let me see."  # the call is not said
        await context.thinking.append(content="The place is full at 7.", delegation_id=delegation.id)
        await client.until("session.thinking.appended")
        await context.commentary.append(content="A table at 8.", delegation_id=delegation.id, event_id="result")
        acknowledged = await client.until("session.commentary.appended")
        assert acknowledged.client_event_id == "result"
        assert acknowledged.start_ms == acknowledged.end_ms >= created.offset_ms
        await client.until(USED)
        assert client.transcript().endswith("It is done.")
        user, call, note, result = story.prompts[-1]
        assert (user[0], call[0]) == ("user", "assistant")
        assert note == ("system", SILENT + "The place is full at 7.")
        assert result == ("tool", "A table at 8.")
        # More of the same task.
        await context.commentary.append(content="It is by the window.", delegation_id=delegation.id)
        await client.until(USED)
        assert story.prompts[-1][-1] == ("system", TO_SAY + "It is by the window.")
        assert len(client.of("session.delegation.created")) == 1


async def test_only_what_the_model_delegated_has_results(store: RedisServer) -> None:
    story = Delegating(said=(), frames=4)
    async with serving(store, story, card=calling_card()) as stages, conversing(stages) as client:
        await client.append(utterance())
        delegation = (await client.until("session.delegation.created")).delegation
        await client.until(USED)
        error = await client.error("session.commentary.append", content="c", delegation_id=delegation.id[:-1])
        assert (error.code, error.param) == ("invalid_delegation_id", "delegation_id")


async def test_a_model_that_calls_nothing_delegates_nothing(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages, delegation={"type": "client"}) as client:
        await client.append(utterance())
        await client.until(USED)
        assert not client.of("session.delegation.created")
        asked = [*stages.calls("preprocess"), *stages.calls("thinker")]
        assert asked
        assert not any(call.tools_json for call in asked)


async def test_commentary_makes_the_model_speak_and_thinking_does_not(store: RedisServer) -> None:
    history: Any = [
        {"role": "developer", "content": [{"type": "input_text", "text": "The user is Eva."}]},
        {"role": "user", "content": [{"text": "Hi!"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello, Eva."}]},
    ]
    async with serving(store) as stages, conversing(stages, input=history) as client:
        context = client.connection.session
        await context.thinking.append(content="It is her birthday.", delegation_id=None)
        await client.until("session.thinking.appended")
        await client.settled()
        assert not stages.calls("thinker")
        await context.commentary.append(content="Happy birthday!", delegation_id=None)
        await client.until(USED)
        assert client.transcript() == stages.story.text
        assert prompts(stages) == [
            [
                ("system", "The user is Eva."),
                ("user", "Hi!"),
                ("assistant", "Hello, Eva."),
                ("system", SILENT + "It is her birthday."),
                ("system", TO_SAY + "Happy birthday!"),
            ]
        ]


async def test_commentary_waits_for_the_answer_and_for_the_user(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages) as client:
        context = client.connection.session
        stages.talker[0].may_pull.clear()
        await client.append(utterance())
        await context.commentary.append(content="one", delegation_id=None)
        await client.until("session.commentary.appended")
        stages.talker[0].may_pull.set()
        for _ in range(2):  # one answer after another
            await client.until(USED)
        assert [prompt[-1] for prompt in prompts(stages)] == [("user", ""), ("system", TO_SAY + "one")]
        await client.append(silence(BEFORE) + said("hello"))
        await context.commentary.append(content="two", delegation_id=None)
        await client.until("session.commentary.appended")
        await client.settled()
        assert len(prompts(stages)) == 2
        await client.append(silence(900))
        await client.until(USED)
        assert prompts(stages)[-1][-2:] == [("system", TO_SAY + "two"), ("user", "")]


async def test_instructions_are_added_to_those_of_the_start(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages, instructions="Be kind.") as client:
        for more in ("Be brief.", "Speak English."):
            await client.connection.session.instructions.append(content=more, delegation_id=None, event_id=more)
            assert (await client.until("session.instructions.appended")).client_event_id == more
        await client.append(utterance())
        await client.until(AUDIO)
        await client.until(USED)
        assert prompts(stages)[-1][0] == ("system", "Be kind.\n\nBe brief.\n\nSpeak English.")


async def test_instructions_grow_no_longer_than_a_response_can_read(store: RedisServer) -> None:
    async with serving(store, max_text_bytes=10_000) as stages, conversing(stages, instructions="Be brief.") as client:
        more = "x" * 6000
        await client.ask("session.instructions.append", "session.instructions.appended", content=more)
        assert (await client.error("session.instructions.append", content=more)).code == "text_too_large"
        shown = await client.ask("session.update", "session.updated", session={})
        assert shown.session.instructions == f"Be brief.\n\n{more}"


async def test_mistakes_name_the_event_and_the_field(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages) as client:
        error = await client.error("session.thinking.append", content="", delegation_id=None)
        assert error.param == "content"
        error = await client.error("session.update", session={"delegation": {"type": "responses", "responses": {}}})
        assert error.param == "session.delegation.type"
        error = await client.error("session.update", session={"instructions": "Be rude."})
        assert (error.param, error.code) == ("session.instructions", "unknown_parameter")
        error = await client.error("session.start", session={"model": stages.card.name})
        assert error.code == "session_already_started"
        for kind in ("session.output_audio.fixture.play", "response.create", "input_audio_buffer.commit"):
            assert (await client.error(kind)).param == "type"
