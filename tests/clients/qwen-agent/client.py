"""Qwen-Agent: its OpenAI-compatible model with its own function calling, and with the server's."""

from __future__ import annotations

import json

from conversations import KEY, MODEL, OSLO, URL, WEATHER, hold
from qwen_agent.agents import Assistant
from qwen_agent.llm import get_chat_model
from qwen_agent.tools.base import BaseTool, register_tool

LLM = {"model": MODEL, "model_type": "oai", "model_server": URL, "api_key": KEY}
RAW = {**LLM, "generate_cfg": {"use_raw_api": True}}
asked: list[str] = []


@register_tool("weather")
class Weather(BaseTool):
    description = "The weather of a city"
    parameters = {key: value for key, value in WEATHER.items() if key != "additionalProperties"}  # noqa: RUF012

    def call(self, params: str, **_: object) -> str:
        asked.append(json.loads(params)["city"])
        return "Rain."


def chat() -> None:
    for llm in (LLM, RAW):
        *_, last = get_chat_model(llm).chat(messages=[{"role": "user", "content": "say Hello there."}])
        assert last[-1]["content"] == "Hello there."


def whole() -> None:
    answer = get_chat_model(LLM).chat(messages=[{"role": "user", "content": "say Hello there."}], stream=False)
    assert answer[-1]["content"] == "Hello there."


def agent() -> None:
    for llm in (LLM, RAW):
        asked.clear()
        *_, last = Assistant(llm=llm, function_list=["weather"]).run([{"role": "user", "content": OSLO}])
        assert asked == ["Oslo"]
        assert last[-1]["content"] == "It rains in Oslo."


hold(globals())
