"""pydantic-ai with its two OpenAI models: agents with tools, typed output by tool and by schema, sound and streams."""

from __future__ import annotations

from conversations import KEY, MODEL, OSLO, REPORT, URL, hold, sound
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput, PromptedOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Report(BaseModel):
    city: str
    rain: bool


CITIES: list[str] = []


def weather(city: str) -> str:
    """The weather of a city."""
    CITIES.append(city)
    return "Rain."


def _models() -> list[OpenAIChatModel | OpenAIResponsesModel]:
    provider = OpenAIProvider(base_url=URL, api_key=KEY)
    return [OpenAIChatModel(MODEL, provider=provider), OpenAIResponsesModel(MODEL, provider=provider)]


async def chat() -> None:
    for model in _models():
        agent = Agent(model, instructions="Be brief.")
        first = await agent.run("say Hello there.")
        assert first.output == "Hello there."
        assert first.usage.output_tokens == 3
        second = await agent.run("roles", message_history=first.all_messages())
        assert second.output == "system user assistant user", second.output


async def stream() -> None:
    for model in _models():
        async with Agent(model).run_stream("say Hello there.") as run:
            assert [text async for text in run.stream_text(delta=True, debounce_by=None)]
            assert await run.get_output() == "Hello there."


async def hears() -> None:
    agent = Agent(_models()[0])
    run = await agent.run([BinaryContent(sound(), media_type="audio/wav"), "read 0"])
    assert run.output == "<audio>\nread 0", run.output


async def tools() -> None:
    for model in _models():
        run = await Agent(model, tools=[weather]).run(OSLO)
        assert run.output == "It rains in Oslo."
    assert CITIES == ["Oslo", "Oslo"]


async def typed() -> None:
    for model in _models():
        by_tool = Agent(model, output_type=Report)
        run = await by_tool.run('call final_result {"city": "Oslo", "rain": true}')
        assert run.output == Report(city="Oslo", rain=True)
        for output in (NativeOutput(Report), PromptedOutput(Report)):
            run = await Agent(model, output_type=output).run(REPORT)
            assert run.output == Report(city="Oslo", rain=True)


hold(globals())
