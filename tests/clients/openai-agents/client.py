"""openai-agents with its default model class, the Responses API, with chat completions and with the Realtime API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)
from agents.realtime import RealtimeAgent, RealtimeRunner, RealtimeSession
from conversations import KEY, MODEL, OSLO, PNG, SCRIPT, URL, Microphone, heard_words, hold
from openai import AsyncOpenAI
from pydantic import BaseModel

ASK = 'call weather {"city": "Oslo"}\nsay {"city": "Oslo", "rain": true}'


class Talk:
    """A session's events, with what the server said."""

    def __init__(self, session: RealtimeSession) -> None:
        self._events: AsyncIterator[Any] = aiter(session)

    async def until(self, kind: str) -> dict[str, Any]:
        """Return the next event of the server's of this type. Raise AssertionError for an error."""
        async for event in self._events:
            assert event.type != "error", event.error
            is_server_event = event.type == "raw_model_event" and event.data.type == "raw_server_event"
            if is_server_event and event.data.data["type"] == kind:
                return event.data.data
        raise AssertionError("The session has ended.")

    async def answer(self) -> str:
        """Return the transcript of the next answer that is whole."""
        while (done := (await self.until("response.done"))["response"])["status"] == "cancelled":
            pass
        assert done["status"] == "completed", done
        message = done["output"][0]
        return message["content"][0]["transcript"] if message["type"] == "message" else await self.answer()


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


async def realtime() -> None:
    cities: list[str] = []

    @function_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        cities.append(city)
        return "Rain."

    set_tracing_disabled(True)
    agent = RealtimeAgent(name="forecaster", instructions=SCRIPT, tools=[weather])
    runner = RealtimeRunner(agent)
    url = f"{URL.replace('http', 'ws')}/realtime?model={MODEL}"
    session = await runner.run(
        model_config={"api_key": KEY, "url": url, "initial_model_settings": {"model_name": MODEL}}
    )
    microphone = Microphone()

    async def record() -> None:
        async for frame in microphone.frames():
            await session.send_audio(frame)

    async with session:
        recording = asyncio.create_task(record())
        talk = Talk(session)
        microphone.say()
        for _ in range(10):
            await talk.until("response.output_audio.delta")
        microphone.say()
        truncated = await talk.until("conversation.item.truncated")
        assert await talk.answer() == heard_words(truncated["audio_end_ms"])
        await session.send_message(OSLO)
        assert await talk.answer() == "It rains in Oslo."
        assert cities == ["Oslo"]
        image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
        content: Any = [image, {"type": "input_text", "text": "read -1"}]
        await session.send_message({"type": "message", "role": "user", "content": content})
        assert await talk.answer() == "<image>\nread -1"
        recording.cancel()


hold(globals())
