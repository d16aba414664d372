"""Functions that the model calls, and what the client answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.talking import Client, talking
from tests.gateway.responses.conftest import CALL, WEATHER, Answers, card
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

CITY = '{"city": "Oslo"}'
TIME: dict[str, Any] = {"type": "function", "name": "time"}


@dataclass(frozen=True, slots=True)
class Weather(Answers):
    """Its second answer has no token that begins a call."""

    then: tuple[str, ...] = ("It ", "rains.")

    @property
    def spoken_ids(self) -> list[int]:
        return self.token_ids if self.call_id not in self.token_ids else super(Weather, self).spoken_ids


@pytest.fixture
def story() -> Weather:
    return Weather(said=CALL)


@pytest_asyncio.fixture
async def stages(store: RedisServer, story: Weather) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url, story, card=card(), workers=1, slots=8) as running:
        yield running
        await wait_until(running.clean)
        await wait_until(lambda: running.gateway.gateway.memory.budget.held_bytes == 0)


@pytest_asyncio.fixture
async def client(stages: Stages) -> AsyncIterator[Client]:
    async with talking(stages, tools=[WEATHER]) as made:
        yield made


async def asked(client: Client, **options: Any) -> Any:
    """Ask for the weather. Return the response, once it is over."""
    await client.write("How is the weather?")
    return (await client.ask("response.create", "response.done", response=options)).response


async def test_a_call_has_the_events_of_the_api(stages: Stages, client: Client) -> None:
    await client.write("How is the weather?")
    seen = len(client.events)
    done = (await client.ask("response.create", "response.done")).response
    said, call = done.output
    events = [event for event in client.events[seen:] if getattr(event, "output_index", None) == 1]
    assert {event.response_id for event in events} == {done.id}
    kinds = [event.type for event in events]
    assert kinds[0] == "response.output_item.added"
    assert kinds[-2:] == ["response.function_call_arguments.done", "response.output_item.done"]
    assert set(kinds[1:-2]) == {"response.function_call_arguments.delta"}
    added, *deltas, whole, ended = events
    assert (added.item.name, added.item.arguments, added.item.status) == ("weather", "", "in_progress")
    assert "".join(event.delta for event in deltas) == whole.arguments == call.arguments == CITY
    assert len(deltas) > 1
    assert {event.call_id for event in [*deltas, whole, ended.item]} == {call.call_id}
    assert (whole.name, ended.item.status) == ("weather", "completed")
    # What is said before the call is spoken, and the call is not.
    assert said.content[0].transcript == client.transcript() == "Let me see."
    assert client.audio() == stages.story.pcm
    in_conversation = [(e.type, e.item.id) for e in client.events[seen:] if e.type.startswith("conversation.item.")]
    assert set(in_conversation) == {
        (f"conversation.item.{what}", item.id) for what in ("added", "done") for item in (said, call)
    }
    assert (done.status, done.usage.output_token_details.text_tokens) == ("completed", len(stages.story.token_ids))


@pytest.mark.parametrize("modality", ["audio", "text"])
async def test_the_next_response_uses_what_the_function_gave(stages: Stages, client: Client, modality: str) -> None:
    options = {"output_modalities": [modality]}
    said, call = (await asked(client, **options)).output
    output: dict[str, Any] = {"type": "function_call_output", "call_id": call.call_id, "output": '{"rain": true}'}
    shown = (await client.ask("conversation.item.create", "conversation.item.done", item=output)).item
    assert (shown.type, shown.call_id, shown.output) == ("function_call_output", call.call_id, '{"rain": true}')
    done = (await client.ask("response.create", "response.done", response=options)).response
    (answer,) = done.output
    content = answer.content[0]
    assert (content.transcript if modality == "audio" else content.text) == "It rains."
    start = stages.calls("preprocess")[-1] if stages.calls("preprocess") else stages.calls("thinker")[-1]
    user, assistant, tool = start.messages
    assert (user.role, assistant.role, tool.role) == ("user", "assistant", "tool")
    assert [part.text for part in assistant.parts] == ["Let me see."]
    (past,) = assistant.tool_calls
    assert (past.id, past.name, past.arguments_json) == (call.call_id, "weather", CITY)
    assert (tool.tool_call_id, tool.parts[0].text) == (call.call_id, '{"rain": true}')
    assert json.loads(start.tools_json)[0]["function"]["name"] == "weather"
    for item in (said, call):
        kept = (await client.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=item.id)).item
        assert (kept.type, kept.status) == (item.type, "completed")


async def test_tools_and_their_choice_belong_to_a_session_or_a_response(stages: Stages, client: Client) -> None:
    shown = client.events[-1].session
    assert (shown.tools[0].name, shown.tools[0].parameters, shown.tool_choice) == (
        "weather",
        WEATHER["parameters"],
        "auto",
    )
    done = await asked(client, tool_choice="none")
    assert done.output[0].content[0].transcript == stages.story.text
    choice = {"type": "function", "name": "time"}
    done = await asked(client, tools=[TIME], tool_choice=choice, output_modalities=["text"])
    asks = [call.structure.tool_calls for call in stages.calls("thinker")]
    assert [[tool.name for tool in one.tools] for one in asks] == [[], ["time"]]
    assert (asks[1].required, asks[1].at_most_one) == (True, True)
    # A call of what may not be called is text.
    assert "weather" in done.output[0].content[0].text
    session: dict[str, Any] = {"type": "realtime", "tools": [], "tool_choice": "auto"}
    assert (await client.ask("session.update", "session.updated", session=session)).session.tools == []


async def test_a_call_alone_is_the_only_item(stages: Stages, client: Client, story: Weather) -> None:
    object.__setattr__(story, "then", CALL[1:])
    object.__setattr__(story, "calls", lambda _: False)
    await client.write("?")
    seen = len(client.events)
    done = (await client.ask("response.create", "response.done", response={"output_modalities": ["text"]})).response
    assert [item.type for item in done.output] == ["function_call"]
    assert "response.content_part.added" not in [event.type for event in client.events[seen:]]


async def test_a_call_that_is_cut_is_no_part_of_the_prompt(stages: Stages, client: Client) -> None:
    stages.next_calls("thinker", Act("hang", 4))
    await client.write("How is the weather?")
    await client.ask("response.create", "response.function_call_arguments.delta")
    done = (await client.ask("response.cancel", "response.done")).response
    assert [(item.type, item.status) for item in done.output] == [
        ("message", "incomplete"),
        ("function_call", "incomplete"),
    ]
    output: dict[str, Any] = {"type": "function_call_output", "call_id": done.output[1].call_id, "output": "rain"}
    await client.ask("conversation.item.create", "conversation.item.done", item=output)
    await client.ask("response.create", "response.done", response={"output_modalities": ["text"]})
    prompt = (stages.calls("preprocess") or stages.calls("thinker"))[-1].messages
    assert not any(message.tool_calls for message in prompt)


async def test_a_history_with_calls_may_be_created(stages: Stages, client: Client) -> None:
    call = {"type": "function_call", "id": "mine", "call_id": "c1", "name": "weather", "arguments": ""}
    shown = (await client.ask("conversation.item.create", "conversation.item.done", item=call)).item
    assert (shown.id, shown.call_id, shown.arguments, shown.status) == ("mine", "c1", "{}", "completed")
    output = {"type": "function_call_output", "call_id": "c1", "output": ""}
    await client.ask("conversation.item.create", "conversation.item.done", item=output)
    options = {"output_modalities": ["text"]}
    await client.ask("response.create", "response.done", response=options)
    # The same, beside the conversation.
    options |= {"conversation": "none", "input": [call, output, {"type": "item_reference", "id": "mine"}]}
    await client.ask("response.create", "response.done", response=options)
    first, second = [call.messages for call in (stages.calls("preprocess") or stages.calls("thinker"))]
    assert [(m.role, len(m.tool_calls)) for m in first] == [("assistant", 1), ("tool", 0)]
    assert [(m.role, len(m.tool_calls)) for m in second] == [("assistant", 1), ("tool", 0), ("assistant", 1)]


async def test_mistakes_in_tools_name_the_field(client: Client) -> None:
    async def update(**session: Any) -> Any:
        return await client.error("session.update", session={"type": "realtime", **session})

    assert (await update(tools=[{"type": "mcp", "server_label": "x"}])).param.startswith("session.tools[0]")
    assert (await update(tools=[{"type": "function", "name": "no name"}])).param.startswith("session.tools[0]")
    twice = await update(tools=[TIME, TIME])
    assert (twice.param, "same name" in twice.message) == ("tools", True)
    wrong = {**TIME, "parameters": {"type": "object", "properties": 3}}
    assert (await update(tools=[wrong])).param == "tools[0].parameters.properties"
    assert (await update(tools=[], tool_choice="required")).param == "tool_choice"
    assert (await update(tool_choice={"type": "function", "name": "nothing"})).param == "tool_choice"
    item: dict[str, Any] = {"type": "function_call_output", "call_id": "nobody's", "output": "o"}
    unknown = await client.error("conversation.item.create", item=item)
    assert (unknown.param, unknown.code) == ("item.call_id", "invalid_tool_call_id")
    item = {"type": "function_call", "call_id": "c", "name": "time", "arguments": "[]"}
    assert (await client.error("conversation.item.create", item=item)).param == "item.arguments"
    item = {"type": "mcp_call"}
    assert (await client.error("conversation.item.create", item=item)).param == "item"
    assert (await client.error("conversation.item.truncate", item_id="x", content_index=0, audio_end_ms=0)).param
