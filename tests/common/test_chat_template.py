"""The chat template of a checkpoint, loaded without the rest of its processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor, AutoTokenizer

from antiphon.v1 import preprocess_pb2 as pb
from services.common.chat_template import ChatTemplate, load_chat_template
from services.common.errors import BadInput, ContextTooLong

CONVERSATION = [
    ("system", "You sing. <|im_end|>"),
    ("user", "名は？ Ünïcode  \n\n and spaces "),
    ("assistant", "<think>\nhmm\n</think>\n\nYes."),
    ("user", "And then?"),
]


@pytest.mark.parametrize("kind", ["tiny_instruct", "tiny_thinking", "tiny_captioner"])
def test_it_gives_the_tokens_of_the_processors_template(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    processor = AutoProcessor.from_pretrained(folder)
    messages = [pb.Message(role=role, parts=[pb.Part(text=text)]) for role, text in CONVERSATION]
    expected = ChatTemplate(processor.tokenizer, processor.chat_template, 1000).token_ids(messages, "")
    assert load_chat_template(folder, 1000).token_ids(messages, "") == expected


@pytest.mark.parametrize(
    "text", ["Yes.", "\n\n  Lines\nand spaces ", "名は？ Ünïcode 🎈", "Say <|im_end|> and <|audio_pad|>."]
)
def test_a_given_answer_is_its_text_and_one_end_token(tiny_instruct: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_instruct)
    *ids, end = load_chat_template(tiny_instruct, 1000).answer_ids(text)
    special = {tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|audio_pad|>")}
    assert end == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert not special & set(ids)
    assert tokenizer.decode(ids) == text
    if "<|" not in text:
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_given_answer_is_bounded_before_it_is_tokenized(tiny_instruct: Path) -> None:
    with pytest.raises(ContextTooLong):
        load_chat_template(tiny_instruct, 10).answer_ids("word " * 10_000)


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Wetter für <b>Städte</b>",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Łódź"]}}},
            "strict": True,
        },
    },
    {"type": "function", "function": {"name": "time"}, "extra": [1, None]},
]
CALLS = [("weather", {"city": "Łódź", "days": [1, 2.5]}), ("time", {})]


def call_of(index: int) -> dict[str, Any]:
    name, arguments = CALLS[index]
    return {"type": "function", "id": f"c{index}", "function": {"name": name, "arguments": arguments}}


HISTORIES: dict[str, list[dict[str, Any]]] = {
    "a question": [{"role": "user", "content": "What is the weather?"}],
    "a system turn": [{"role": "system", "content": "You sing."}, {"role": "user", "content": "Hm?"}],
    "calls and results": [
        {"role": "system", "content": "You sing."},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "", "tool_calls": [call_of(0), call_of(1)]},
        {"role": "tool", "tool_call_id": "c0", "content": "wet"},
        {"role": "tool", "tool_call_id": "c1", "content": "late"},
        {"role": "assistant", "content": "Once more.", "tool_calls": [call_of(0)]},
        {"role": "tool", "tool_call_id": "c0", "content": "dry"},
        {"role": "assistant", "content": "It is late and dry."},
        {"role": "user", "content": "Thanks."},
    ],
}


def proto_of(message: dict[str, Any]) -> pb.Message:
    calls = [
        pb.ToolCall(
            id=call["id"], name=call["function"]["name"], arguments_json=json.dumps(call["function"]["arguments"])
        )
        for call in message.get("tool_calls", ())
    ]
    parts = [pb.Part(text=message["content"])]
    return pb.Message(role=message["role"], parts=parts, tool_calls=calls, tool_call_id=message.get("tool_call_id", ""))


@pytest.mark.parametrize("tools", [TOOLS, TOOLS[1:], None])
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("kind", ["tiny_instruct", "tiny_thinking"])
def test_tools_and_calls_are_rendered_as_transformers_does(
    kind: str, history: str, tools: list[dict[str, Any]] | None, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    processor = AutoProcessor.from_pretrained(folder)
    messages = HISTORIES[history]
    text = processor.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    assert ("# Tools" in text) == (tools is not None)
    expected = processor.tokenizer(text)["input_ids"]
    template = load_chat_template(folder, 2000)
    written = json.dumps(tools) if tools else ""
    assert template.token_ids(list(map(proto_of, messages)), written) == expected


def test_a_call_cannot_end_its_turn(tiny_instruct: Path) -> None:
    template = load_chat_template(tiny_instruct, 1000)

    def ids(text: str) -> list[int]:
        call = pb.ToolCall(id=text, name="f", arguments_json=json.dumps({text: text}))
        said = pb.Message(role="assistant", tool_calls=[call])
        return template.token_ids([said, pb.Message(role="tool", parts=[pb.Part(text=text)], tool_call_id=text)], "")

    end = template.token_ids([pb.Message(role="user", parts=[pb.Part(text="x")])], "")[-4]
    assert end in ids("x")
    assert ids("<|im_end|>").count(end) == ids("x").count(end)


@pytest.mark.parametrize("arguments", ["", "[]", "{", "[" * 100_000])
def test_arguments_must_be_an_object(arguments: str, tiny_instruct: Path) -> None:
    call = pb.ToolCall(name="f", arguments_json=arguments, path="messages[0].tool_calls[0]")
    with pytest.raises(BadInput) as caught:
        load_chat_template(tiny_instruct, 1000).token_ids([pb.Message(role="assistant", tool_calls=[call])], "")
    assert caught.value.param == "messages[0].tool_calls[0].function.arguments"
