"""The events of the native form, made of a turn's: chains of thought, calls of tools, and all text so far."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from services.common.errors import TimedOut
from services.gateway.http.chat.completion import CompletionForm
from services.gateway.http.chat.whole_completion import WholeChoice, whole_completion
from services.gateway.http.dashscope.write import NativeStream, native_answer
from services.gateway.kept.until import KeptUntil
from services.gateway.turn.events import FinishReason, Text, TurnDone, TurnEvent, TurnStarted, Usage
from services.gateway.turn.prompt import PromptUsage

FORM = CompletionForm(
    id="req_1",
    created_unix_s=1,
    model="m",
    speech=False,
    audio_format="wav",
    token_ids=False,
    usage_chunk=False,
    text_in_content=True,
)
DONE = TurnDone(
    FinishReason.STOP,
    Usage(PromptUsage(text_tokens=3, audio_tokens=2), cached_tokens=1, completion_text_tokens=4, reasoning_tokens=1),
)
CALL = ("Look: ", '<tool_call>\n{"name": "weather", "arguments": ', '{"city": ', '"Oslo"}', "}\n</tool_call>")
TOOLS = replace(FORM, tool_names=frozenset({"weather"}))


def texts(*deltas: str, thought: Iterable[str] = ()) -> list[TurnEvent]:
    thoughts = [Text([1], reasoning_delta=delta) for delta in thought]
    return [TurnStarted("req_1", [1] * 5), *thoughts, *(Text([1], content_delta=delta) for delta in deltas), DONE]


def events(form: CompletionForm, turn: Iterable[TurnEvent]) -> list[Any]:
    stream = NativeStream(form, lambda: KeptUntil(0.0), new_id=lambda: "call_1")
    encoded = b"".join(map(stream.choices[0].encoded, turn)).decode()
    return [json.loads(event.partition("data:")[2]) for event in encoded.strip().split("\n\n")]


def messages(told: list[Any]) -> list[Any]:
    return [event["output"]["choices"][0]["message"] for event in told]


@pytest.mark.parametrize("incremental", [True, False])
def test_content_is_empty_while_the_model_thinks(incremental: bool) -> None:
    told = messages(events(replace(FORM, incremental=incremental), texts("so ", "yes", thought=["a", "b"])))
    assert [message["content"] for message in told[:2]] == [[], []]
    thoughts = [message.get("reasoning_content", "") for message in told]
    said = [message["content"][0]["text"] for message in told[2:]]
    if incremental:
        assert thoughts == ["a", "b", "", "", ""]
        assert said == ["so ", "yes", ""]
    else:
        assert thoughts == ["a", "ab", "ab", "ab", "ab"]
        assert said == ["so ", "so yes", "so yes"]


def test_all_of_a_long_text_is_sent_seldom_enough() -> None:
    words = ["0123456789"] * 2000
    told = messages(events(replace(FORM, incremental=False), texts(*words)))
    said = [message["content"][0]["text"] for message in told]
    assert said[-1] == "".join(words)
    assert said[:10] == ["".join(words[:n]) for n in range(1, 11)]
    assert sum(map(len, said)) < 70 * len(said[-1])


def test_a_call_comes_in_pieces_or_as_it_is_so_far() -> None:
    told = events(TOOLS, texts(*CALL))
    pieces = [call for message in messages(told) for call in message.get("tool_calls", ())]
    assert next((piece["id"], piece["function"]["name"]) for piece in pieces) == ("call_1", "weather")
    assert {piece["id"] for piece in pieces[1:]} == {""}
    assert {piece["index"] for piece in pieces} == {0}
    assert json.loads("".join(piece["function"]["arguments"] for piece in pieces)) == {"city": "Oslo"}
    assert told[-1]["output"]["choices"][0]["finish_reason"] == "tool_calls"
    last = messages(events(replace(TOOLS, incremental=False), texts(*CALL)))[-1]
    (call,) = last["tool_calls"]
    assert (call["id"], call["function"]["name"]) == ("call_1", "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    assert last["content"][0]["text"].strip() == "Look:"


def test_a_whole_answer_says_the_same() -> None:
    choice = WholeChoice(TOOLS, lambda: KeptUntil(0.0), new_id=lambda: "call_1")
    for event in texts(*CALL, thought=["hm"]):
        choice.add(event)
    answer = native_answer(TOOLS, whole_completion(TOOLS, [choice], 24_000))
    last = events(replace(TOOLS, incremental=False), texts(*CALL, thought=["hm"]))[-1]
    assert answer == last


def test_usage_has_the_modalities_at_the_end() -> None:
    *others, last = events(FORM, texts("a", "b", "c", "d"))
    assert [event["usage"] for event in others] == [
        {"input_tokens": 5, "output_tokens": n, "total_tokens": 5 + n} for n in range(1, 5)
    ]
    assert last["usage"] == {
        "input_tokens": 5,
        "output_tokens": 4,
        "total_tokens": 9,
        "image_tokens": 0,
        "audio_tokens": 2,
        "video_tokens": 0,
        "input_tokens_details": {"text_tokens": 3, "image_tokens": 0, "audio_tokens": 2, "video_tokens": 0},
        "output_tokens_details": {"text_tokens": 4, "audio_tokens": 0, "reasoning_tokens": 1},
        "prompt_tokens_details": {"cached_tokens": 1},
    }


def test_an_error_has_its_status_where_the_client_reads_it() -> None:
    stream = NativeStream(FORM, lambda: KeptUntil(0.0))
    stream.choices[0].encoded(Text([1], content_delta="a"))
    id, kind, comment, status, data = stream.failed(TimedOut("Too late.")).decode().strip().split("\n")
    assert (id, kind, comment, status) == ("id:2", "event:error", ":HTTP_STATUS/504", "status:504")
    assert json.loads(data.removeprefix("data:")) == {
        "code": "GatewayTimeout",
        "message": "Too late.",
        "request_id": "req_1",
    }
