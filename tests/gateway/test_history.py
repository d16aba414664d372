"""Answers sent back as history: as they came, as clients join their chunks, and as openai's helpers return them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from services.common.errors import BadInput
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.chat.translate import messages_from
from services.gateway.http.chat.whole_completion import WholeChoice, whole_completion
from services.gateway.http.json_body import parse_json
from services.gateway.inline_media import InlineMedia
from services.gateway.kept.until import KeptUntil
from services.gateway.turn.conversation import TextPart
from tests.gateway.test_completion import chunks, form, story

USER: dict[str, Any] = {"role": "user", "content": "hello"}
SPOKEN: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "wav"}}


def read_back(*messages: Any) -> str:
    """Return the text that the stack gets for the second message."""
    body = json.dumps({"model": "m", "messages": [USER, *messages, USER]}).encode()
    return answer_in(body)


def answer_in(body: bytes) -> str:
    chat = parse_json(body, ChatRequest)
    message = messages_from(chat, InlineMedia(1 << 20))[1]
    assert message.role == "assistant"
    (part,) = message.parts
    assert isinstance(part, TextPart)
    return part.text


class Model:
    """Answers openai's client with our chunks and completions. Keeps the bodies that it gets."""

    def __init__(self, *, speech: bool) -> None:
        self.form = form(speech=speech, token_ids=speech)
        self.story = story(speech=speech)
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(request.content)
        if json.loads(request.content).get("stream"):
            lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks(self.form, self.story))
            headers = {"content-type": "text/event-stream"}
            return httpx2.Response(200, headers=headers, content=(lines + "data: [DONE]\n\n").encode())
        whole = WholeChoice(self.form, lambda: KeptUntil(2000.5))
        for event in self.story:
            whole.add(event)
        return httpx2.Response(200, json=whole_completion(self.form, [whole], 24_000))

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url="http://gateway/v1",
            api_key="k",
            http_client=httpx2.Client(transport=httpx2.MockTransport(self)),
        )


def created(client: openai.OpenAI, ask: dict[str, Any]) -> Any:
    return client.chat.completions.create(**ask).choices[0].message


def streamed(client: openai.OpenAI, ask: dict[str, Any]) -> Any:
    with client.chat.completions.stream(**ask) as stream:
        return stream.get_final_completion().choices[0].message


def parsed(client: openai.OpenAI, ask: dict[str, Any]) -> Any:
    return client.chat.completions.parse(**ask).choices[0].message


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("speech", [False, True])
@pytest.mark.parametrize("ask_by", [created, streamed, parsed])
def test_a_message_of_openais_client_is_the_answer(
    ask_by: Callable[[openai.OpenAI, dict[str, Any]], Any], speech: bool, as_dict: bool
) -> None:
    model = Model(speech=speech)
    ask = {"model": "m", "messages": [USER], **(SPOKEN if speech else {})}
    message = ask_by(model.client, ask)
    assert answer_in(again(model, ask, message, as_dict)) == "Hello"


def again(model: Model, ask: dict[str, Any], message: Any, as_dict: bool) -> bytes:
    """Return the body of a second request, with `message` in its history."""
    history: Any = [USER, message.model_dump() if as_dict else message, USER]
    created(model.client, {**ask, "messages": history})
    return model.bodies[-1]


@pytest.mark.parametrize(
    "message",
    [
        {"content": "", "audio": {"id": "audio_1", "transcript": "Hello"}},
        {"content": [], "audio": {"transcript": "Hello"}},
        {"content": [{"type": "text", "text": ""}], "audio": {"transcript": "Hello"}},
        {"content": "Hello", "audio": {"id": "audio_1"}},
        {"content": "Hello", "audio": {"id": "audio_1", "transcript": "He"}},
        {"content": "Hello", "refusal": "", "annotations": [], "function_call": None, "tool_calls": [], "parsed": None},
        {"content": "", "refusal": "Hello"},
        {"content": None, "refusal": "Hello", "audio": None},
        {"content": "Hello", "provider_specific_fields": {"a": [1]}, "thinking_blocks": None, "images": []},
        {"content": "Hello", "parsed": {"any": "thing"}, "reasoning": "hm", "reasoning_content": None},
        {"content": "Hello", "id": "run--1", "name": None, "response_metadata": {}, "usage": {"total_tokens": 3}},
        {"content": "Hello", "audio": {"id": "audio_1", "format": "wav", "codes": [1], "anything": {}}},
        {"content": [{"type": "text", "text": "Hello", "annotations": [], "index": 0}]},
        {"content": "", "audio": {"id": "audio_1", "data": "AAAA", "transcript": "Hello"}, "finish_reason": "stop"},
    ],
)
def test_the_answer_is_found_wherever_it_stands(message: dict[str, Any]) -> None:
    assert read_back({"role": "assistant", **message}) == "Hello"


@pytest.mark.parametrize(
    "message",
    [
        {"content": ""},
        {"content": "", "audio": {"id": "audio_1", "data": "", "transcript": "", "expires_at": 5}},
        {"content": None, "audio": {"id": "audio_1", "transcript": "", "expires_at": 5}},
    ],
)
def test_an_answer_may_be_empty(message: dict[str, Any]) -> None:
    assert read_back({"role": "assistant", **message}) == ""


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "", "audio": {}}, "audio"),
        ({"content": None, "audio": {"expires_at": 5}}, "audio"),
        ({"content": "", "audio": {"transcript": ""}}, "audio"),
        ({"content": [], "audio": {"id": 5, "data": "AAAA"}}, "audio"),
        ({"content": None}, "content"),
        ({"content": []}, "content"),
        ({"content": None, "refusal": ""}, "content"),
        ({"content": "Hello", "images": [{}]}, "images"),
        ({"content": "Hello", "function_call": {"name": "f"}}, "function_call"),
    ],
)
def test_a_lost_answer_is_refused_by_name(message: dict[str, Any], param: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_back({"role": "assistant", **message})
    assert caught.value.param == f"messages[1].{param}"
