"""Items as they are kept."""

from __future__ import annotations

import pytest

from services.gateway.realtime.conversation import (
    AudioContent,
    CallContent,
    CallOutputContent,
    Content,
    FilmContent,
    ImageContent,
    Item,
    ItemStatus,
    SpeechContent,
    TextContent,
    wav_of,
)
from services.gateway.realtime.input_buffer import Uncommitted
from services.gateway.realtime.input_frames import Frame
from services.gateway.realtime.kept.records import item_of, record_of, uncommitted_of, uncommitted_record
from services.gateway.realtime.kept.sealer import Sealer
from services.gateway.realtime.spoken import Spoken
from services.gateway.turn.conversation import FileSource, UrlSource
from services.gateway.turn.events import Speech, Text


def spoken() -> Spoken:
    """300 ms of speech, and four words of 100 ms each, of which three were read by then."""
    made = Spoken(24_000, "ethan", token_s=0.1)
    for n in range(4):
        made.add_text(Text([n], f"w{n} "))
    for n in range(3):
        made.add_speech(Speech(n, (), 2400 * n, bytes(4800), text_tokens=n + 1))
    return made


@pytest.mark.parametrize(
    "contents",
    [
        [TextContent("héllo \ud800")],
        [AudioContent(wav_of(b"ab" * 50)), AudioContent(b"", "nothing"), TextContent("?")],
        [
            ImageContent(b"png", "image/png"),
            ImageContent(UrlSource("https://a.example/b", "image/png"), url="https://a.example/b"),
        ],
        [ImageContent(FileSource("a.png"), url="file:///a.png")],
        [FilmContent([b"one", b"two", b""], 0.5), AudioContent(b"wav")],
        [SpeechContent(spoken())],
        [CallContent("c", "f", '{"a": 1}')],
        [CallOutputContent("c", "done")],
        [],
    ],
    ids=["text", "audio", "image", "file", "film", "speech", "call", "output", "empty"],
)
def test_an_item_is_what_it_was(contents: list[Content]) -> None:
    item = Item("user", contents)
    assert item_of(record_of(item)) == item


@pytest.mark.parametrize("frames", [[], [Frame(b"one", (64, 48), -7), Frame(b"", (1, 2), 4800)]])
def test_what_is_in_no_item_is_what_it_was(frames: list[Frame]) -> None:
    held = Uncommitted(b"ab" * 50, frames)
    assert uncommitted_of(uncommitted_record(held)) == held


def test_an_answer_that_was_being_made_is_what_was_heard() -> None:
    item = Item("assistant", [SpeechContent(spoken())], status=ItemStatus.IN_PROGRESS)
    again = item_of(record_of(item))
    (content,) = again.contents
    assert isinstance(content, SpeechContent)
    assert (again.status, content.spoken.heard_text) == (ItemStatus.INCOMPLETE, "w0 w1 w2 ")
    content.spoken.truncate(150)
    assert content.spoken.heard_text == "w0 w1 "


def test_a_value_opens_with_its_key_under_its_name_alone() -> None:
    sealer = Sealer("one")
    sealed = sealer.sealed("name", b"value")
    assert b"value" not in sealed
    assert sealed != sealer.sealed("name", b"value")
    assert sealer.opened("name", sealed) == b"value"
    assert sealer.opened("other", sealed) is None
    assert Sealer("two").opened("name", sealed) is None
    assert sealer.opened("name", sealed[:-1]) is None
    assert sealer.opened("name", b"") is None
