"""Tools and structured answers over Converse."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from antiphon.v1 import gateway_pb2, preprocess_pb2, thinker_pb2
from services.common.errors import BadInput
from services.common.grpc_errors import error_from_rpc
from services.gateway.converse.tools import form_of
from services.gateway.turn.structure import Choices, Grammar, JsonObject, JsonSchema, Regex, ToolCalls
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import API_KEY
from tests.gateway.responses.conftest import CALL, Answers, card
from tests.gateway.scripted.stages import Stages, scripted_stages
from tests.gateway.turn.test_converse import gateway_stub

SCHEMA = '{"type": "object", "properties": {"city": {"type": "string"}}}'
WEATHER = gateway_pb2.Tool(name="weather", description="The weather of a city", parameters_schema=SCHEMA)


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncGenerator[Stages]:
    async with scripted_stages(store.url, Answers(said=CALL), workers=1, card=card()) as running:
        yield running
        await wait_until(running.clean)


def message(role: str, text: str = "", **fields: Any) -> preprocess_pb2.Message:
    return preprocess_pb2.Message(role=role, parts=[preprocess_pb2.Part(text=text)] if text else [], **fields)


def started(**fields: Any) -> gateway_pb2.ConverseStart:
    given: dict[str, Any] = {"messages": [message("user", "How is Oslo?")], **fields}
    return gateway_pb2.ConverseStart(**given)


async def answer(stages: Stages, **fields: Any) -> list[gateway_pb2.ConverseResponse]:
    request = gateway_pb2.ConverseRequest(start=started(**fields))
    async with gateway_stub(stages) as stub:
        call = stub.Converse(iter([request]), metadata=(("authorization", f"Bearer {API_KEY}"),), timeout=HANGS_AFTER_S)
        return [response async for response in call]


async def test_calls_come_as_deltas_beside_the_text(stages: Stages) -> None:
    responses = await answer(stages, tools=[WEATHER], tool_choice=gateway_pb2.TOOL_CHOICE_REQUIRED)
    calls = [response.tool_call for response in responses if response.HasField("tool_call")]
    assert (calls[0].name, [call.name for call in calls[1:]]) == ("weather", [""] * (len(calls) - 1))
    assert calls[0].id.startswith("call_")
    assert json.loads("".join(call.arguments_delta for call in calls)) == {"city": "Oslo"}
    assert "".join(response.text.content_delta for response in responses) == "Let me see."
    assert [token for response in responses for token in response.text.token_ids] == stages.story.token_ids
    assert responses[-1].HasField("done")
    (prepared,) = stages.calls("preprocess")
    function = {"name": "weather", "description": "The weather of a city", "parameters": json.loads(SCHEMA)}
    assert json.loads(prepared.tools_json) == [{"type": "function", "function": function}]
    (generated,) = stages.calls("thinker")
    assert generated.structure.tool_calls.required
    assert json.loads(generated.structure.tool_calls.tools[0].parameters_schema) == json.loads(SCHEMA)


async def test_results_go_back(stages: Stages) -> None:
    called = preprocess_pb2.ToolCall(id="call_1", name="weather", arguments_json='{"city": "Oslo"}')
    history = [
        message("user", "How is Oslo?"),
        message("assistant", tool_calls=[called]),
        message("tool", "Rain.", tool_call_id="call_1"),
    ]
    responses = await answer(stages, messages=history, tools=[WEATHER])
    assert json.loads("".join(response.text.content_delta for response in responses)) == {"city": "Oslo", "rain": True}
    (prepared,) = stages.calls("preprocess")
    assert [one.role for one in prepared.messages] == ["user", "assistant", "tool"]
    assert prepared.messages[1].tool_calls[0].arguments_json == '{"city": "Oslo"}'


async def test_wrong_arguments_of_a_past_call_are_named(stages: Stages) -> None:
    called = preprocess_pb2.ToolCall(id="call_1", name="weather", arguments_json="Oslo")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer(stages, messages=[message("user", "x"), message("assistant", tool_calls=[called])])
    assert error_from_rpc(caught.value, "gateway").param == "messages[1].tool_calls[0].arguments_json"


def test_forms_are_those_of_chat() -> None:
    for structure, form in (
        (thinker_pb2.Structure(json_schema=SCHEMA), JsonSchema(SCHEMA)),
        (thinker_pb2.Structure(json_object=True), JsonObject()),
        (thinker_pb2.Structure(regex="a+"), Regex("a+")),
        (thinker_pb2.Structure(choices=thinker_pb2.Choices(texts=["a", "b"])), Choices(("a", "b"))),
        (thinker_pb2.Structure(grammar='root ::= "a"'), Grammar('root ::= "a"')),
    ):
        asked = form_of(started(structure=structure))
        assert asked.structure is not None
        assert asked.structure.form == form
        assert asked.structure.path == f"structure.{structure.WhichOneof('form')}"


def test_choices_of_tools_are_those_of_chat() -> None:
    other = gateway_pb2.Tool(name="time")
    free = form_of(started(tools=[WEATHER, other]))
    assert (free.structure, free.tool_names) == (None, {"weather", "time"})
    assert form_of(started(tools=[WEATHER], tool_choice=gateway_pb2.TOOL_CHOICE_NONE)).tools == ""
    for fields, names, required, at_most_one in (
        ({"tool_choice": gateway_pb2.TOOL_CHOICE_REQUIRED}, ["weather", "time"], True, False),
        ({"tool_name": "time"}, ["time"], True, True),
        ({"one_call": True}, ["weather", "time"], False, True),
        ({"structure": thinker_pb2.Structure(json_schema=SCHEMA)}, ["weather", "time"], False, False),
    ):
        asked = form_of(started(tools=[WEATHER, other], **fields))
        assert asked.structure is not None
        calls = asked.structure.form
        assert isinstance(calls, ToolCalls)
        assert [tool.name for tool in calls.tools] == names
        assert (calls.required, calls.at_most_one) == (required, at_most_one)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [gateway_pb2.Tool(name="a b")]}, "tools[0].name"),
        ({"tools": [gateway_pb2.Tool(name="a", parameters_schema="[]")]}, "tools[0].parameters_schema"),
        ({"tools": [gateway_pb2.Tool(name="a", parameters_schema='{"type": 1}')]}, "tools[0].parameters_schema.type"),
        ({"tools": [WEATHER] * 129}, "tools"),
        ({"tools": [WEATHER], "tool_name": "time"}, "tool_name"),
        ({"tool_choice": gateway_pb2.TOOL_CHOICE_REQUIRED}, "tool_choice"),
        ({"structure": thinker_pb2.Structure(json_schema="x")}, "structure.json_schema"),
        ({"structure": thinker_pb2.Structure(regex="")}, "structure.regex"),
        ({"structure": thinker_pb2.Structure(choices=thinker_pb2.Choices())}, "structure.choices"),
        ({"structure": thinker_pb2.Structure(tool_calls=thinker_pb2.ToolCalls())}, "structure.tool_calls"),
        ({"tools": [WEATHER], "structure": thinker_pb2.Structure(regex="a")}, "structure"),
    ],
    ids=[
        *("same names", "name", "schema of a list", "no schema", "too many tools", "unknown tool", "nothing to call"),
        *("no JSON", "empty pattern", "no choices", "calls", "tools and a pattern"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadInput) as caught:
        form_of(started(**fields))
    assert caught.value.param == param
