"""openai-agents with its default model class, the Responses API, and with chat completions."""

from __future__ import annotations

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)
from conversations import KEY, MODEL, URL, hold
from openai import AsyncOpenAI
from pydantic import BaseModel

ASK = 'call weather {"city": "Oslo"}\nsay {"city": "Oslo", "rain": true}'


class Report(BaseModel):
    city: str
    rain: bool


def _agent(asked: list[str], *, of_chat: bool = False) -> Agent:
    """Return an agent that calls a tool and reports in a schema."""

    @function_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "Rain."

    client = AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0)
    set_tracing_disabled(True)
    set_default_openai_client(client, use_for_tracing=False)
    model = OpenAIChatCompletionsModel(MODEL, client) if of_chat else MODEL
    return Agent(name="forecaster", instructions="Report.", model=model, tools=[weather], output_type=Report)


async def responses() -> None:
    asked: list[str] = []
    agent = _agent(asked)
    first = await Runner.run(agent, ASK)
    second = await Runner.run(agent, ASK, previous_response_id=first.last_response_id)
    again = await Runner.run(agent, [*first.to_input_list(), {"role": "user", "content": ASK}])
    for run in (first, second, again):
        assert run.final_output == Report(city="Oslo", rain=True)
        assert len(run.raw_responses) == 2
    assert asked == ["Oslo"] * 3
    assert type(first.last_agent.model) is str
    assert first.context_wrapper.usage.total_tokens > 0


async def streamed_responses() -> None:
    asked: list[str] = []
    run = Runner.run_streamed(_agent(asked), ASK)
    kinds = {event.type async for event in run.stream_events()}
    assert {"raw_response_event", "run_item_stream_event"} <= kinds
    assert (run.final_output, asked) == (Report(city="Oslo", rain=True), ["Oslo"])


async def goes_on() -> None:
    plain = Agent(name="reader", model=_agent([]).model)
    first = await Runner.run(plain, "say Hello there.")
    second = await Runner.run(plain, "roles", previous_response_id=first.last_response_id)
    assert second.final_output == "user assistant user"


async def chat() -> None:
    asked: list[str] = []
    agent = _agent(asked, of_chat=True)
    assert (await Runner.run(agent, ASK)).final_output == Report(city="Oslo", rain=True)
    run = Runner.run_streamed(agent, ASK)
    assert [event.type async for event in run.stream_events()]
    assert run.final_output == Report(city="Oslo", rain=True)
    assert asked == ["Oslo"] * 2


hold(globals())
