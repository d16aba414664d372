"""Calls of tools in DashScope's text-generation, by its own client."""

from __future__ import annotations

import json

from tests.fixtures.redis import RedisServer
from tests.gateway.dashscope.test_text_generation import call
from tests.gateway.responses.conftest import CALL, Answers, card
from tests.gateway.scripted.stages import scripted_stages


async def test_tools_are_called(store: RedisServer) -> None:
    async with scripted_stages(store.url, Answers(said=CALL), card=card(), workers=1) as stages:
        weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
        messages = [{"role": "user", "content": "How is Oslo?"}]
        first = (await call(stages, messages=messages, tools=[weather])).output.choices[0]
        (made,) = first.message["tool_calls"]
        assert (first.finish_reason, first.message.content) == ("tool_calls", "Let me see.")
        assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == ("weather", {"city": "Oslo"})
        result = {"role": "tool", "content": "Rain.", "tool_call_id": made["id"]}
        last = (await call(stages, messages=[*messages, dict(first.message), result])).output.choices[0]
        assert (last.finish_reason, json.loads(last.message.content)) == ("stop", {"city": "Oslo", "rain": True})
        del result["tool_call_id"]  # as chat completions take it, too
        again = (await call(stages, messages=[*messages, dict(first.message), result])).output.choices[0]
        assert again.message.content == last.message.content
