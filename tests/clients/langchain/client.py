"""LangChain's ChatOpenAI: spoken turns, tools, structured answers, streams, and the Responses API."""

from __future__ import annotations

import base64

from conversations import KEY, MODEL, OSLO, REPORT, URL, hold, sound
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


def _chat(**options: object) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, max_retries=2, **options)


class Report(BaseModel):
    """A report of the weather."""

    city: str
    rain: bool


@tool
def _weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}."


_weather.name = "weather"


def text() -> None:
    answer = _chat().invoke("say Hello there.")
    assert answer.content == "Hello there."
    assert answer.usage_metadata["output_tokens"] == 3
    again = _chat().invoke([HumanMessage("say Hello there."), answer, HumanMessage("read 1")])
    assert again.content == "Hello there."


def stream() -> None:
    chunks = list(_chat(stream_usage=True).stream("say Hello there."))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert (whole.content, whole.usage_metadata["output_tokens"]) == ("Hello there.", 3)


async def astream() -> None:
    assert "".join([chunk.content async for chunk in _chat().astream("say Hello there.")]) == "Hello there."


def spoken() -> None:
    spoken = _chat(modalities=["text", "audio"], model_kwargs={"audio": {"voice": "ethan", "format": "wav"}})
    heard = {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound()).decode(), "format": "wav"}}
    asked = HumanMessage([heard, {"type": "text", "text": "say I hear you."}])
    answer = spoken.invoke([asked])
    assert answer.additional_kwargs["audio"]["transcript"] == "I hear you."
    # LangChain sends the answer back by its id, with an empty content.
    again = _chat().invoke([asked, answer, HumanMessage("read 1")])
    assert again.content == "I hear you."
    v1 = {"type": "audio", "base64": base64.b64encode(sound()).decode(), "mime_type": "audio/wav"}
    assert _chat().invoke([HumanMessage([v1, {"type": "text", "text": "read 0"}])]).content == "<audio>\nread 0"


def tools() -> None:
    model = _chat().bind_tools([_weather])
    asked = HumanMessage(OSLO)
    answer = model.invoke([asked])
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Oslo"})
    result = ToolMessage(_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert model.invoke([asked, answer, result]).content == "It rains in Oslo."
    streamed = None
    for chunk in model.stream([asked]):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["args"] == {"city": "Oslo"}
    assert model.invoke([asked, AIMessage(**streamed.model_dump(include={"content", "tool_calls"})), result]).content


def structured() -> None:
    assert _chat().with_structured_output(Report).invoke(REPORT) == Report(city="Oslo", rain=True)
    called = 'call Report {"city": "Oslo", "rain": true}'
    by_tool = _chat().with_structured_output(Report, method="function_calling")
    assert by_tool.invoke(called) == Report(city="Oslo", rain=True)
    by_json = _chat().with_structured_output(Report, method="json_mode")
    assert by_json.invoke("In JSON.\n" + REPORT) == Report(city="Oslo", rain=True)


def responses() -> None:
    model = _chat(use_responses_api=True, output_version="responses/v1")
    first = model.invoke("say Hello there.")
    assert first.text == "Hello there."
    assert model.invoke([HumanMessage("say Hello there."), first, HumanMessage("roles")]).text == "user assistant user"
    (call,) = model.bind_tools([_weather]).invoke(OSLO).tool_calls
    assert call["args"] == {"city": "Oslo"}
    assert model.with_structured_output(Report).invoke(REPORT) == Report(city="Oslo", rain=True)


def retries() -> None:
    assert _chat().invoke("busy langchain\nsay Here I am.").content == "Here I am."


hold(globals())
