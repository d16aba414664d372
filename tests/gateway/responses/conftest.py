"""Scripted stages behind /v1/responses, and openai's SDK in front of it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import openai
import pytest_asyncio

from antiphon.v1 import common_pb2, preprocess_pb2, thinker_pb2
from tests.fixtures.documented import Documented, documented
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.responses.checked import checked
from tests.gateway.scripted.stages import Stages, scripted_stages
from tests.gateway.scripted.story import SaidStory

RESPONSES = "/v1/responses"
OTHER_KEY = "other-key"
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = (
    "Let me see.",
    "\n",
    "<tool_call>",
    '\n{"name": "weather", "arguments": {"city"',
    ': "Oslo"}}\n',
    "</tool_call>",
)

Prompt = preprocess_pb2.PrepareStart | thinker_pb2.GenerateRequest


@dataclass(frozen=True, slots=True)
class Answers(SaidStory):
    """A call of the weather, and after its result another answer. Only one turn may run at a time.

    `prompts`: the role and the texts of each message of each prompt, in order."""

    then: tuple[str, ...] = ('{"city"', ': "Oslo", ', '"rain": true}')
    prompts: list[list[tuple[str, list[str]]]] = field(default_factory=list[Any])
    # Chooses the answer; by default the call, until the last message is its result.
    calls: Callable[[Prompt], bool] = lambda start: start.messages[-1].role != "tool"

    def prompt(self, start: Prompt) -> tuple[list[int], int]:
        said = CALL if self.calls(start) else self.then
        object.__setattr__(self, "said", said)
        object.__setattr__(self, "words", len(said))
        self.prompts.append([(m.role, [part.text for part in m.parts]) for m in start.messages])
        return super(SaidStory, self).prompt(start)

    @property
    def call_id(self) -> int:
        return 100 + CALL.index("<tool_call>")


def card() -> common_pb2.ModelCard:
    described = common_pb2.ModelCard(structures_answers=True, tool_call_token_id=Answers().call_id)
    described.MergeFrom(INSTRUCT)
    return described


@dataclass
class Api:
    """`client` is the SDK (openai.AsyncOpenAI) with the default tenant's key, `other` that with another tenant's.
    Answers and events are compared with `documented`, but for the SDK's events."""

    stages: Stages
    story: Answers
    client: Any
    other: Any
    documented: Documented

    async def events(self, **fields: Any) -> list[dict[str, Any]]:
        """Return the events of a streamed response, as they came. The SDK's types hold for each."""
        body = {"model": INSTRUCT.name, "input": "hello", "stream": True, **fields}
        events: list[dict[str, Any]] = []
        async with self.stages.gateway.client.stream("POST", RESPONSES, json=body) as response:
            assert response.status_code == 200, await response.aread()
            name = ""
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    events.append(json.loads(line.removeprefix("data: ")))
                    assert events[-1]["type"] == name
                    self.documented.check_event(response.request, events[-1])
        checked(events)
        return events

    async def post(self, **fields: Any) -> Any:
        body = {"model": INSTRUCT.name, "input": "hello", **fields}
        return await self.stages.gateway.client.post(RESPONSES, json=body)


@asynccontextmanager
async def running_api(redis_url: str, **settings: Any) -> AsyncGenerator[Api]:
    """`settings` are the gateway's. At the end, nothing may be left of the turns."""
    story = Answers(said=CALL)
    tenants = {"responses-other": [sha256(OTHER_KEY.encode()).hexdigest()]}
    async with scripted_stages(redis_url, story, card=card(), tenant_keys=tenants, **settings) as stages:
        base_url = stages.gateway.url + "/v1"
        answers = documented((await stages.gateway.client.get("/openapi.json")).content)

        def sdk(key: str) -> Any:
            checked_http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [answers.check]})
            return openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, http_client=checked_http)

        async with sdk(API_KEY) as client, sdk(OTHER_KEY) as other:
            yield Api(stages, story, client, other, answers)
        await wait_until(stages.clean)


@pytest_asyncio.fixture
async def api(store: RedisServer) -> AsyncGenerator[Api]:
    async with running_api(store.url) as running:
        yield running
