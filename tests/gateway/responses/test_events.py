"""The events of a response, and the response that they end with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from services.common.errors import AntiphonError, BadInput, Capacity, Unavailable
from services.gateway.http.responses.answer import ResponseForm, asked_fields
from services.gateway.http.responses.events import ResponseEvents, encoded
from services.gateway.http.responses.schema import ResponseRequest
from services.gateway.turn.events import (
    FinishReason,
    Logprob,
    Text,
    TokenLogprobs,
    TurnDone,
    TurnEvent,
    TurnStarted,
    Usage,
)
from services.gateway.turn.prompt import PromptUsage
from tests.gateway.responses.checked import checked

USAGE = Usage(PromptUsage(text_tokens=5, audio_tokens=2), cached_tokens=3, completion_text_tokens=4, reasoning_tokens=1)
DONE, CUT = TurnDone(FinishReason.STOP, USAGE), TurnDone(FinishReason.LENGTH, USAGE)
CALL = ("<tool_call>", '\n{"name": "weather", "arguments": {"city"', ': "Oslo"}}\n', "</tool_call>")


def form(*, tools: Sequence[str] = (), logprobs: bool = False) -> ResponseForm:
    asked = asked_fields(ResponseRequest.model_validate({"input": "hello"}))
    return ResponseForm("ab" * 16, 1000, asked, "m", frozenset(tools), logprobs)


def answer(*texts: str | Text, done: TurnDone = DONE) -> list[TurnEvent]:
    said = [Text([i], content_delta=text) if isinstance(text, str) else text for i, text in enumerate(texts)]
    return [TurnStarted("req", [1, 2]), *said, done]


def events_of(form: ResponseForm, turn: Sequence[TurnEvent]) -> Sequence[dict[str, Any]]:
    ids = iter(f"call_{n}" for n in range(9))
    events = ResponseEvents(form, lambda: 2000.5, new_id=lambda: next(ids))
    return checked([made for event in turn for made in events.add(event)])


def response_of(form: ResponseForm, turn: Sequence[TurnEvent]) -> dict[str, Any]:
    return events_of(form, turn)[-1]["response"]


def shown(response: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the kind and the text of each item."""
    return [
        (item["type"], item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"])
        for item in response["output"]
    ]


def test_a_text_is_one_message() -> None:
    events = events_of(form(), answer("Hel", "", "lo", ""))
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done", "output_item.done"),
        "completed",
    ]
    response = events[-1]["response"]
    assert shown(response) == [("message", "Hello")]
    assert (response["status"], response["created_at"], response["completed_at"]) == ("completed", 1000, 2000)
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 3
    assert (response["usage"]["input_tokens"], response["usage"]["output_tokens"]) == (7, 4)
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 1
    assert events[0]["response"]["output"] == events[1]["response"]["output"] == []


def test_events_are_named_on_the_wire() -> None:
    lines = encoded(events_of(form(), answer("é"))).decode().split("\n\n")
    assert lines[-1] == ""
    for line in lines[:-1]:
        name, data = line.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    assert '"delta":"é"' in lines[4]


def test_calls_are_items_of_their_own() -> None:
    response = response_of(form(tools=["weather"]), answer("Let me see.", "\n", *CALL, "\n", *CALL))
    arguments = '{"city": "Oslo"}'
    assert shown(response) == [
        ("message", "Let me see."),
        ("function_call", arguments),
        ("function_call", arguments),
    ]
    calls = response["output"][1:]
    assert [(call["call_id"], call["name"], call["status"]) for call in calls] == [
        ("call_0", "weather", "completed"),
        ("call_1", "weather", "completed"),
    ]
    assert len({item["id"] for item in response["output"]}) == 3


def test_white_space_beside_calls_is_no_message() -> None:
    assert [kind for kind, _ in shown(response_of(form(tools=["weather"]), answer("\n", "\n\n", *CALL, " \n\n")))] == [
        "function_call"
    ]
    said = response_of(form(tools=["weather"]), answer(*CALL, "\n\n", " Now", " this."))
    assert shown(said)[1:] == [("message", "\n\n Now this.")]
    assert shown(response_of(form(tools=["weather"]), answer("\n"))) == [("message", "\n")]


def test_an_empty_answer_is_an_empty_message() -> None:
    for tools in ([], ["weather"]):
        assert shown(response_of(form(tools=tools), answer(""))) == [("message", "")]


def test_a_chain_of_thought_comes_before_the_answer() -> None:
    thought = [Text([1], reasoning_delta="Hm"), Text([2], reasoning_delta="m."), Text([3])]
    response = response_of(form(), answer(*thought, "Yes."))
    assert shown(response) == [("reasoning", "Hmm."), ("message", "Yes.")]
    assert response["output"][0]["summary"] == []
    assert shown(response_of(form(), answer(*thought))) == [("reasoning", "Hmm."), ("message", "")]
    cut = response_of(form(), answer(*thought, done=CUT))
    assert shown(cut) == [("reasoning", "Hmm.")]
    assert cut["output"][0]["status"] == "incomplete"


def test_a_limit_makes_it_incomplete() -> None:
    events = events_of(form(), answer("Hel", done=CUT))
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (response["output"][0]["status"], "completed_at" in response) == ("incomplete", False)
    limited = response_of(form(), answer("Hel", done=TurnDone(FinishReason.LENGTH, limit="tokens_per_day")))
    assert limited["antiphon_limit"] == "tokens_per_day"


def test_a_cut_call_is_incomplete_and_a_whole_one_is_not() -> None:
    cut = response_of(form(tools=["weather"]), answer(*CALL[:2], done=CUT))
    assert shown(cut) == [("function_call", '{"city"')]
    assert cut["output"][0]["status"] == "incomplete"
    whole = response_of(form(tools=["weather"]), answer(*CALL[:3], done=CUT))
    assert (whole["status"], whole["output"][0]["status"]) == ("incomplete", "completed")


def logprob(text: str) -> TokenLogprobs:
    token = Logprob(1, -0.5, text.encode())
    return TokenLogprobs(token, (token,))


def test_log_probabilities_go_with_the_text() -> None:
    turn = answer(
        Text([1], reasoning_delta="Hm", logprobs=[logprob("Hm")]),
        Text([2], logprobs=[logprob("half")]),
        Text([3], content_delta="é", logprobs=[logprob("other half")]),
        Text([4], logprobs=[logprob("end")], is_last=True),
    )
    events = events_of(form(logprobs=True), turn)
    (delta,) = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [one["token"] for one in delta["logprobs"]] == ["half", "other half"]
    (part,) = events[-1]["response"]["output"][1]["content"]
    assert [one["token"] for one in part["logprobs"]] == ["half", "other half", "end"]
    assert part["logprobs"][0]["top_logprobs"][0] == {"token": "half", "logprob": -0.5, "bytes": list(b"half")}
    without = response_of(form(), turn)
    assert without["output"][1]["content"][0]["logprobs"] == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("away"), "server_error"),
        (Capacity("full"), "rate_limit_exceeded"),
        (BadInput("no", param="input[0]"), "invalid_prompt"),
    ],
)
def test_an_error_ends_the_response(error: AntiphonError, code: str) -> None:
    events = ResponseEvents(form(), lambda: 2000.5)
    made = [made for event in answer("Hel")[:-1] for made in events.add(event)]
    made += events.fail(error)
    checked(made)
    told, failed = made[-2:]
    assert (told["type"], told["code"], told["message"], told["param"]) == (
        *("error", error.code, error.message),
        error.param,
    )
    assert told["error"]["message"] == error.message  # openai's clients raise it
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"] == {"code": code, "message": error.message}
    assert shown(failed["response"]) == [("message", "Hel")]
    assert failed["response"]["output"][0]["status"] == "incomplete"
