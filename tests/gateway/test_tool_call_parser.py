"""Calls of tools are found in an answer's text, however it is cut; what is no call stays text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.http.chat.tools.parser import CallArguments, CallBegun, Content, Piece, ToolCallParser

NAMES = frozenset({"weather", "time"})
OSLO = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'


def pieces_of(parts: Sequence[str], names: frozenset[str] = NAMES) -> list[Piece]:
    ids = (f"call_{n}" for n in itertools.count())
    parser = ToolCallParser(names, lambda: next(ids))
    return [piece for part in parts for piece in parser.add(part)] + parser.finish()


def read(*parts: str, names: frozenset[str] = NAMES) -> tuple[str, list[tuple[str, str]]]:
    """Return the text, and the name and arguments of each call, as a client joins them."""
    content, calls = "", list[list[str]]()
    for piece in pieces_of(parts, names):
        match piece:
            case Content(text):
                content += text
            case CallBegun(index, call_id, name):
                assert (index, call_id) == (len(calls), f"call_{len(calls)}")
                calls.append([name, ""])
            case CallArguments(index, text):
                assert index == len(calls) - 1
                assert text
                calls[index][1] += text
    return content, [(name, arguments) for name, arguments in calls]


CASES: list[tuple[str, str, list[tuple[str, Any]]]] = [
    ("Just text.", "Just text.", []),
    (OSLO, "", [("weather", {"city": "Oslo"})]),
    (f"Let me see.\n{OSLO}", "Let me see.", [("weather", {"city": "Oslo"})]),
    (f"{OSLO}\n{NOW}", "", [("weather", {"city": "Oslo"}), ("time", {})]),
    (f"a{OSLO}b{NOW}c", "abc", [("weather", {"city": "Oslo"}), ("time", {})]),
    (
        '<tool_call>{"name":"time","arguments":{"a":{"b":["}","{"]}}}</tool_call>',
        "",
        [("time", {"a": {"b": ["}", "{"]}})],
    ),
    (
        r'<tool_call>{"name": "time", "arguments": {"a": "\"}</tool_call>\\"}}</tool_call>',
        "",
        [("time", {"a": '"}</tool_call>\\'})],
    ),
    ('<tool_call>{"arguments": {"a": 1}, "name": "time"}</tool_call>', "", [("time", {"a": 1})]),
    ('<tool_call>{"name": "time"}</tool_call>', "", [("time", {})]),
    ('<tool_call>{"name": "time", "arguments": {}}', "", [("time", {})]),
    ('x\n<tool_call>\n<tool_call>{"name": "time", "arguments": {}}</tool_call>', "x\n<tool_call>", [("time", {})]),
]
NO_CALLS = [
    "<tool_call>",
    "a < b <tool",
    "a\n<tool_call>nothing</tool_call> b",
    '\n\n<tool_call>{"name": "unknown", "arguments": {}}</tool_call>\n',
    '<tool_call>{"name": "time", "arguments": "no object"}</tool_call>',
    '<tool_call>{"name": ["time"], "arguments": {}}</tool_call>',
    "<tool_call>[]</tool_call>",
    "</tool_call>",
    "<tool_call>" * 40 + "</tool_call>" * 40,
]


@pytest.mark.parametrize(("text", "content", "calls"), CASES)
def test_calls_are_found(text: str, content: str, calls: list[tuple[str, Any]]) -> None:
    got_content, got_calls = read(text)
    assert got_content == content
    assert [(name, json.loads(arguments)) for name, arguments in got_calls] == calls


@pytest.mark.parametrize("text", NO_CALLS)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert read(text) == (text, [])
    assert read(*text) == (text, [])


def test_a_broken_call_keeps_what_the_model_wrote() -> None:
    begun = '<tool_call>{"name": "time", "arguments": {"a": '
    assert read(f"{begun}nonsense</tool_call> b") == (" b", [("time", '{"a": nonsense')])
    assert read(begun) == ("", [("time", '{"a": ')])
    extra = '<tool_call>{"name": "time", "arguments": {}, "id": 3}</tool_call>'
    assert read(extra) == (', "id": 3}</tool_call>', [("time", "{}")])


def test_the_name_comes_before_the_arguments_end() -> None:
    parser = ToolCallParser(NAMES, lambda: "call_1")
    assert parser.add('<tool_call>\n{"name": "weather", "arguments": ') == []
    assert parser.add('{"city": "Os') == [CallBegun(0, "call_1", "weather"), CallArguments(0, '{"city": "Os')]
    assert parser.add('lo"}') == [CallArguments(0, 'lo"}')]
    assert parser.add("}\n</tool_call>") == parser.finish() == []


WORDS = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "\n",
        " ",
        "{",
        "}",
        '"',
        "\\",
        ",",
        ":",
        "<",
        "x",
        "é",
        OSLO,
        NOW,
        OSLO[:40],
        NOW[:44],
    ]
)


@settings(deadline=None)
@given(st.lists(WORDS, max_size=14).map("".join), st.data())
def test_every_cut_of_a_text_gives_the_same_calls(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    assert read(*parts) == read(text) == read(*text)
    assert read(text, names=frozenset()) == (text, [])


@settings(deadline=None)
@given(
    st.text(alphabet=st.characters(exclude_characters="<\n", exclude_categories=["Cs"]), max_size=20),
    st.lists(
        st.tuples(
            st.sampled_from(sorted(NAMES)),
            st.dictionaries(
                st.text(max_size=6), st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=3
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 7),
)
def test_calls_as_the_template_writes_them_come_back(
    said: str, calls: list[tuple[str, dict[str, Any]]], size: int
) -> None:
    written = "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments, ensure_ascii=False)}}}\n</tool_call>'
        for name, arguments in calls
    )
    text = f"{said}\n{written}" if said else written
    content, got = read(*(text[at : at + size] for at in range(0, len(text), size)))
    assert content == said
    assert [(name, json.loads(arguments)) for name, arguments in got] == calls
