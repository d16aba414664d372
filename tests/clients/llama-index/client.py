"""LlamaIndex's OpenAILike: chat, streams, sound, tools and structured answers."""

from __future__ import annotations

from conversations import KEY, MODEL, OSLO, REPORT, URL, hold, sound
from llama_index.core.base.llms.types import AudioBlock, ChatMessage, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


def _llm(**options: object) -> OpenAILike:
    return OpenAILike(
        model=MODEL,
        api_base=URL,
        api_key=KEY,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=1000,
        max_retries=2,
        **options,
    )


class Report(BaseModel):
    """A report of the weather."""

    city: str
    rain: bool


def _weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}."


TOOL = FunctionTool.from_defaults(_weather, name="weather")


def chat() -> None:
    asked = ChatMessage("say Hello there.")
    answer = _llm().chat([asked])
    assert answer.message.content == "Hello there."
    assert _llm().chat([asked, answer.message, ChatMessage("roles")]).message.content == "user assistant user"
    assert _llm().complete("say Hello there.").text == "Hello there."


def stream() -> None:
    assert [*_llm().stream_chat([ChatMessage("say Hello there.")])][-1].message.content == "Hello there."
    assert "".join(part.delta for part in _llm().stream_complete("say Hello there.")) == "Hello there."


async def achat() -> None:
    assert (await _llm().achat([ChatMessage("say Hello there.")])).message.content == "Hello there."


def hears() -> None:
    asked = ChatMessage(role="user", blocks=[AudioBlock(audio=sound(), format="wav"), TextBlock(text="read 0")])
    assert _llm().chat([asked]).message.content == "<audio>\nread 0"


def tools() -> None:
    llm = _llm()
    asked = ChatMessage(OSLO)
    answer = llm.chat_with_tools([TOOL], chat_history=[asked])
    (call,) = llm.get_tool_calls_from_response(answer)
    assert (call.tool_name, call.tool_kwargs) == ("weather", {"city": "Oslo"})
    result = ChatMessage("Rain.", role="tool", additional_kwargs={"tool_call_id": call.tool_id})
    answer = llm.chat_with_tools([TOOL], chat_history=[asked, answer.message, result])
    assert answer.message.content == "It rains in Oslo."
    streamed = [*llm.stream_chat_with_tools([TOOL], chat_history=[asked])][-1]
    assert llm.get_tool_calls_from_response(streamed)[0].tool_kwargs == {"city": "Oslo"}


def structured() -> None:
    by_tool = _llm().as_structured_llm(Report)
    assert by_tool.complete('call Report {"city": "Oslo", "rain": true}').raw == Report(city="Oslo", rain=True)
    by_schema = _llm(should_use_structured_outputs=True).as_structured_llm(Report)
    assert by_schema.complete(REPORT).raw == Report(city="Oslo", rain=True)


hold(globals())
