"""OpenAI's own Live client, and a story whose model delegates."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
from pydantic import BaseModel

from antiphon.v1 import common_pb2
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.realtime.asides import TRANSCRIBED, TRANSCRIPT, Asides, Prompt, kind_of
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import Client, LongStory
from tests.gateway.scripted.stages import Stages, scripted_stages
from tests.gateway.scripted.story import SaidStory, Story

AUDIO = "session.output_audio.delta"
SAID = "session.output_transcript.delta"
HEARD = "session.input_transcript.delta"
USED = "session.usage.updated"
"""The last event of an answer."""
BEFORE = 400
"""Milliseconds of silence before what is said."""
CALL = (
    "Let me see.",
    "\n",
    "<tool_call>",
    '\n{"name": "delegate", "arguments": {"task"',
    ': "Book a table"}}\n',
    "</tool_call>",
)
ROOMY: dict[str, Any] = {"max_media_bytes": 4 << 20, "max_body_bytes": 16 << 20, "realtime_eager_silence_ms": 0}


@dataclass(frozen=True, slots=True)
class Delegating(LongStory, SaidStory):
    """A call of `delegate` as answer to the user, and after its result other words."""

    then: tuple[str, ...] = ("It is ", "done.")
    # The role and the text of each message of each prompt.
    prompts: list[list[tuple[str, str]]] = field(default_factory=list[Any])

    def prompt(self, start: Prompt) -> tuple[list[int], int]:
        kind = kind_of(start)
        if kind is None:
            told = [(message.role, "".join(part.text for part in message.parts)) for message in start.messages]
            self.prompts.append(told)
            words = CALL if told[-1][0] == "user" else self.then
            object.__setattr__(self, "said", words)
            object.__setattr__(self, "words", len(words))
        ids, items = super(SaidStory, self).prompt(start)
        return [*ids, *([kind] if kind else [])], items

    def answering(self, prompt: list[int]) -> Story:
        return SaidStory(said=TRANSCRIPT) if prompt[-1] == TRANSCRIBED else self

    @property
    def call_id(self) -> int:
        return 100 + CALL.index("<tool_call>")

    @property
    def spoken_ids(self) -> list[int]:
        return super(Delegating, self).spoken_ids if self.call_id in self.token_ids else self.token_ids


def calling_card() -> common_pb2.ModelCard:
    described = common_pb2.ModelCard(structures_answers=True, tool_call_token_id=Delegating().call_id)
    described.MergeFrom(INSTRUCT)
    return described


class LiveClient(Client):
    """A connection, and the events that came. Each is as the SDK's types have it."""

    async def next(self) -> Any:
        event = await self.connection.recv()
        assert isinstance(event, BaseModel), event
        type(event).model_validate(event.to_dict(mode="json"), strict=True)  # pyright: ignore
        if event.type != AUDIO:  # pyright: ignore
            assert event.event_id  # pyright: ignore
        self.events.append(event)
        return event

    async def append(self, pcm: bytes, chunk_bytes: int = 48 * 100) -> None:
        for at in range(0, len(pcm), chunk_bytes):
            audio = base64.b64encode(pcm[at : at + chunk_bytes]).decode()
            await self.connection.session.input_audio.append(audio=audio)

    async def settled(self) -> None:
        await self.connection.session.update(session={}, event_id="settled")
        while (event := await self.next()).type != "session.updated" or event.client_event_id != "settled":
            assert event.type != "error", event

    async def error(self, kind: str, **fields: Any) -> Any:
        error = (await self.ask(kind, "error", event_id="mine", **fields)).error
        assert (error.client_event_id, bool(error.message)) == ("mine", True)
        return error

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    def audio(self) -> bytes:
        return b"".join(base64.b64decode(event.delta) for event in self.of(AUDIO))

    def transcript(self) -> str:
        return "".join(event.delta for event in self.of(SAID))


@asynccontextmanager
async def connected(url: str, key: str = API_KEY, **query: Any) -> AsyncGenerator[LiveClient]:
    async with (
        openai.AsyncOpenAI(base_url=url + "/v1", api_key=key) as made,
        made.live.connect(extra_query=query) as connection,
    ):
        yield LiveClient(connection)


@asynccontextmanager
async def conversing(stages: Stages, key: str = API_KEY, **session: Any) -> AsyncGenerator[LiveClient]:
    """Connect with OpenAI's client, and start the session."""
    async with connected(stages.gateway.url, key) as client:
        given: Any = {"model": INSTRUCT.name, **session}
        await client.connection.session.start(session=given, event_id="start")
        started = await client.until("session.started")
        assert started.client_event_id == "start"
        yield client


@asynccontextmanager
async def serving(store: RedisServer, story: Story | None = None, **settings: Any) -> AsyncGenerator[Stages]:
    async with scripted_stages(store.url, story or Asides(frames=8), workers=1, slots=8, **ROOMY | settings) as stages:
        yield stages
        await wait_until(stages.clean)
        await wait_until(lambda: stages.gateway.gateway.memory.budget.held_bytes == 0)


def utterance(name: str = "hello") -> bytes:
    return silence(BEFORE) + said(name) + silence(900)


def prompts(stages: Stages) -> list[list[tuple[str, str]]]:
    """Return the role and the text of each message of each prompt of an answer."""
    return [
        [(message.role, "".join(part.text for part in message.parts)) for message in call.messages]
        for call in stages.calls("preprocess") or stages.calls("thinker")
        if kind_of(call) is None
    ]
