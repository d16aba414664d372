"""`truncation: auto`: the oldest turns of a conversation that is too long go, and the client is told how many."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio

from services.common.errors import ContextTooLong
from services.gateway.turn.conversation import Message, TextPart
from services.gateway.turn.intent import FieldNames, Intent, Principal, Sampling
from services.gateway.turn.model import Model, ModelKind
from services.gateway.turn.prompt import Prepared
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.truncate import fit
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.scripted.checks import charged
from tests.gateway.scripted.stages import CHAT, Stages, scripted_stages
from tests.gateway.scripted.story import Story

MODEL = Model("m", ModelKind.INSTRUCT, max_model_len=1000)
NAMES = FieldNames(voice="voice", modalities="modalities", messages="input")


def message(role: str, tokens: int) -> Message:
    return Message(role, [TextPart("", "x" * tokens)])


def request(messages: Sequence[Message], max_tokens: int | None = None) -> TurnRequest:
    intent = Intent(NAMES, 0.0, messages, sampling=Sampling(max_tokens=max_tokens), drops_oldest=True)
    return TurnRequest("r", Principal("t", "t"), intent, MODEL, 0)


def length(messages: Sequence[Message]) -> int:
    return sum(len(part.text) for one in messages for part in one.parts if isinstance(part, TextPart))


class Preparing:
    """Makes prompts of a token for each character, and counts them."""

    def __init__(self) -> None:
        self.tries = 0

    async def __call__(self, request: TurnRequest) -> Prepared:
        self.tries += 1
        tokens = length(request.intent.messages)
        if tokens > 5000:
            raise ContextTooLong("The text is longer than the template takes.")
        return Prepared(token_ids=[0] * tokens)


async def kept(messages: Sequence[Message], max_tokens: int | None = None) -> list[Message]:
    fitting, prepared = await fit(request(messages, max_tokens), Preparing())
    kept = list(fitting.intent.messages)
    assert len(prepared.token_ids) == length(kept)
    return kept


async def test_what_fits_is_prepared_once() -> None:
    preparing = Preparing()
    whole = request([message("user", 700)])
    fitting, _ = await fit(whole, preparing)
    assert (fitting, preparing.tries) == (whole, 1)


async def test_only_as_many_turns_go_as_must() -> None:
    messages = [message("user", 100), message("assistant", 100)] * 50
    # 1000 tokens, a quarter of which is left for the answer.
    assert await kept([*messages, message("user", 50)]) == [*messages[-6:], message("user", 50)]
    preparing = Preparing()
    await fit(request([*messages, message("user", 50)]), preparing)
    assert preparing.tries <= 8


async def test_the_longest_answer_has_room() -> None:
    messages = [message("user", 100), message("assistant", 100)] * 3
    assert await kept([*messages, message("user", 100)], 100) == [*messages, message("user", 100)]
    assert await kept([*messages, message("user", 100)], 301) == [*messages[2:], message("user", 100)]


async def test_turns_go_whole_and_the_system_message_stays() -> None:
    system, last = message("system", 10), message("user", 700)
    call, result = message("assistant", 50), replace(message("tool", 50), tool_call_id="c")
    assert await kept([system, message("user", 50), call, result, message("assistant", 50), last]) == [system, last]


async def test_a_last_turn_that_is_too_long_is_refused_with_the_numbers() -> None:
    with pytest.raises(ContextTooLong, match="1000 tokens, but the prompt holds 1200") as caught:
        await kept([message("user", 10), message("user", 1200)])
    assert caught.value.param == "input"
    with pytest.raises(ContextTooLong, match="than the template takes"):
        await kept([message("user", 10), message("user", 6000)])


@dataclass(frozen=True, slots=True)
class LongStory(Story):
    """A prompt has a token for each character, too."""

    def prompt(self, start: Any) -> tuple[list[int], int]:
        ids, items = super(LongStory, self).prompt(start)
        return [*ids, *[5 for one in start.messages for part in one.parts for _ in part.text]], items


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncGenerator[Stages]:
    async with scripted_stages(store.url, LongStory(), workers=1) as running:
        yield running
        await wait_until(running.clean)


async def test_a_response_says_how_many_messages_were_dropped(stages: Stages) -> None:
    sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"old").decode(), "format": "wav"}}
    heard = {"role": "user", "content": [sound, {"type": "input_text", "text": "a" * 600}]}
    newer = {**sound, "input_audio": {"data": base64.b64encode(b"new").decode(), "format": "wav"}}
    last = {"role": "user", "content": [newer, {"type": "input_text", "text": "b" * 600}]}
    body = {"input": [heard, {"role": "assistant", "content": "Yes."}, last]}
    refused = await stages.gateway.client.post("/v1/responses", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    answer = (await stages.gateway.client.post("/v1/responses", json={**body, "truncation": "auto"})).json()
    assert (answer["status"], answer["truncation"], answer["antiphon_dropped_messages"]) == ("completed", "auto", 2)
    # Numbers of what the model read: 600 characters, three tokens of text and three of sound.
    assert answer["usage"]["input_tokens"] == 606
    assert stages.preprocess[0].media[-1] == [b"new"]
    # Asked for again, nothing was dropped of what is kept.
    items = await stages.gateway.client.get(f"/v1/responses/{answer['id']}/input_items")
    assert len(items.json()["data"]) == 3


async def test_what_was_decoded_for_a_prompt_that_was_too_long_is_charged_too(
    stages: Stages, store: RedisServer
) -> None:
    """What the shorter prompt needs is cached by then, and costs nothing."""
    (before,) = await charged(store, "preprocess")
    (worker,) = stages.preprocess
    worker.decode_prices_s = [2.5]
    messages = [{"role": "user", "content": "a" * 600}, {"role": "user", "content": "b" * 600}]
    body = {"messages": messages, "truncation": "auto"}
    assert (await stages.gateway.client.post(CHAT, json=body)).json()["antiphon_dropped_messages"] == 1

    async def settled() -> bool:
        return await charged(store, "preprocess") == [pytest.approx(before + 1 + 25)]

    await wait_until(settled)


async def test_a_chat_completion_says_so_too(stages: Stages) -> None:
    messages = [{"role": "user", "content": "a" * 600}, {"role": "user", "content": "b" * 600}]
    body = {"messages": messages, "truncation": "auto"}
    answer = (await stages.gateway.client.post(CHAT, json=body)).json()
    assert (answer["antiphon_dropped_messages"], answer["usage"]["prompt_tokens"]) == (1, 603)
    streamed = [chunk async for chunk in stages.chunks(messages, truncation="auto")]
    assert [chunk["antiphon_dropped_messages"] for chunk in streamed if "antiphon_dropped_messages" in chunk] == [1]


async def test_the_native_form_says_so_too(stages: Stages) -> None:
    messages = [{"role": "user", "content": "a" * 600}, {"role": "user", "content": "b" * 600}]
    path = "/api/v1/services/aigc/multimodal-generation/generation"
    body = {"input": {"messages": messages}, "parameters": {"truncation": "auto"}}
    answer = (await stages.gateway.client.post(path, json=body)).json()
    assert (answer["antiphon_dropped_messages"], answer["usage"]["input_tokens"]) == (1, 603)
    streamed = await stages.gateway.client.post(path, json=body, headers={"X-DashScope-SSE": "enable"})
    assert json.loads(streamed.text.split("data:")[-1])["antiphon_dropped_messages"] == 1
