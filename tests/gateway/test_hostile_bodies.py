"""Bodies that are made to cost time and memory are refused early. bench.hostile_bodies measures the time."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc
from typing import Any

import pytest
from pydantic import ValidationError

from bench.hostile_bodies import BODIES, SIZE, refusal
from services.common.errors import TooLarge
from services.gateway.http.chat.outline import draft_of, outline_of
from services.gateway.http.chat.parse import read_chat
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.limits import MAX_VALUES
from services.gateway.turn.conversation import Message, TextPart

# The memory of the number of values that any body may hold.
LEAST_BYTES = 65 * MAX_VALUES
USER = {"role": "user", "content": "hello"}
UNKNOWN = {f"k{i}": 1 for i in range(5000)}


@pytest.mark.parametrize("name", BODIES)
async def test_a_hostile_body_is_refused_within_three_times_its_size(name: str) -> None:
    body = BODIES[name](SIZE // 2)
    tracemalloc.start()
    try:
        error = await refusal(body)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error is not None
    assert peak_bytes <= 3 * len(body) + LEAST_BYTES
    assert len(error.message) < 1000
    assert len(error.param or "") < 200


@pytest.mark.parametrize(
    "fields",
    [
        {"modalities": [1] * 5000},
        {"messages": [{}] * 2000},
        {"messages": [{"role": "user", "content": [{}] * 1000}]},
        {"messages": [{"role": "user", "content": [{"type": "video", "video": [1] * 700}]}]},
        {"stop": [""] * 5000},
        {"stop_token_ids": [-1] * 5000},
        {"logit_bias": dict.fromkeys(UNKNOWN, 1000)},
        {"talker": UNKNOWN},
        UNKNOWN,
    ],
)
def test_validation_stops_at_the_first_of_many_errors(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"messages": [USER], **fields})
    assert caught.value.error_count() < 20


@pytest.mark.parametrize("spaces", [None, 2])
@pytest.mark.parametrize("text", ["a", "\u00e9", "\U0001f600", '"', "\\", "\\u", "[{:,", "\n"])
async def test_a_request_as_large_as_it_may_be_is_read(text: str, spaces: int | None) -> None:
    part = {"type": "text", "text": text}
    past = {"role": "assistant", "content": "", "audio": {"transcript": text * 100}}
    messages = [{"role": "user", "content": [part] * 4}, past] * 1024
    for ascii_only in (False, True):
        body = json.dumps({"messages": messages}, ensure_ascii=ascii_only, indent=spaces).encode()
        parsed = await read_chat(body, 1000, 4 << 20)
        asked = [TextPart(f"messages[2046].content[{i}]", text) for i in range(4)]
        said = [TextPart("messages[2047].content", text * 100)]
        assert parsed.messages[-2:] == [Message("user", asked), Message("assistant", said)]


async def test_a_long_answer_with_its_codes_may_be_sent_back() -> None:
    frames = 3000  # four minutes
    audio = {"transcript": "hi", "data": "A" * 5120 * frames, "codes": [2047] * 16 * frames, "codebooks": 16}
    body = json.dumps({"messages": [USER, {"role": "assistant", "content": "", "audio": audio}, USER]}).encode()
    parsed = await read_chat(body, 1000, 4 << 20)
    assert parsed.messages[1].parts == [TextPart("messages[1].content", "hi")]


@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_draft_is_the_body_with_its_long_strings_left_out(ascii_only: bool) -> None:
    strings = ["x" * 10, "y" * 5000, "\u00e9" * 300, "z" * 300 + "\U0001f600" * 9000, '\\"' * 4000, "\u4f60\u597d" * 8]
    raw = {"a": strings, "\u00fc" * 40: [1, True, None]}
    body = json.dumps(raw, ensure_ascii=ascii_only).encode()
    draft = json.loads(draft_of(body, outline_of(body, 1 << 20)))
    first, second = draft
    assert (first, len(second), draft[second]) == ("a", 40, [1, True, None])
    assert [len(s) for s in draft["a"]] == [10, 1100, 300, 1100, 1100, 16]
    assert draft["a"][:4] == ["x" * 10, "y" * 1100, "?" * 300, "z" * 300 + "?" * 800]


# As clients write what base64 and data: URLs hold: PHP and Swift escape the slash, .NET the plus, Go <, > and &.
ESCAPES = {"plain": {}, "slash": {"/": "\\/"}, "plus": {"+": "\\u002B"}, "signs": {"<": "\\u003c", "&": "\\u0026"}}


@pytest.mark.parametrize("escaped", ESCAPES)
@pytest.mark.parametrize(
    "parameter", ["", ";name=a.png", f";name={'a' * 900}.png", ";name=\u00fc.png", ";name=a&<b>.png"]
)
async def test_media_is_found_however_its_json_is_escaped(escaped: str, parameter: str) -> None:
    data = base64.b64encode(bytes(range(256)) * 2000).decode()
    assert {"+", "/"} <= set(data)
    url = f"data:image/png{parameter};base64,{data}"
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "text", "text": "What's <that> & w\u00fcrde?"},
    ]
    body = json.dumps({"messages": [{"role": "user", "content": parts}]})
    for character, escape in ESCAPES[escaped].items():
        body = body.replace(character, escape)
    # All but the text is media, unless the URL can't be told from one.
    parsed = await read_chat(body.encode(), 1 << 20, 1000 if parameter.isascii() else 4 << 20)
    assert [media.text for media in parsed.inline.encoded] == [url, data]
    assert parsed.messages[0].parts[2] == TextPart("messages[0].content[2]", "What's <that> & w\u00fcrde?")


def test_text_that_cannot_be_media_is_bounded_before_it_is_parsed() -> None:
    for ascii_only in (False, True):
        body = json.dumps(["\u00e9" * 1000] * 100, ensure_ascii=ascii_only).encode()
        outline_of(body, 200_000)
        with pytest.raises(TooLarge):
            outline_of(body, 90_000)


async def test_a_refusal_leaves_the_loop_its_turns() -> None:
    refusing = asyncio.ensure_future(refusal(BODIES["many good parts"](SIZE)))
    turns = 0
    while not refusing.done():
        await asyncio.sleep(0)
        turns += 1
    assert isinstance(await refusing, TooLarge)
    assert turns > 10
