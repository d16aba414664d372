"""Finds calls of tools in an answer's text, as it comes.

    text <tool_call>⏎{"name": "weather", "arguments": {"city": "Oslo"}}⏎</tool_call>
    TEXT            └───────────── HEAD ─────────────┘└── ARGUMENTS ──┘└─── TAIL ───┘

A call begins once its head names a tool and its arguments open; from there on they are passed on as they come. Text
that does not become a call stays text: no character is lost, but for the tags, white space around the JSON, and the
line break before a call, which the chat template writes too. However the text is cut into pieces, the calls and the
text are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import chain
from typing import Any

BEGIN, END = "<tool_call>", "</tool_call>"
_BEGIN_ON_A_LINE = "\n" + BEGIN
# A head is shorter: names are at most 64 characters long.
_MAX_HEAD_CHARS = 512
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([A-Za-z0-9_.-]+)"\s*,\s*"arguments"\s*:\s*(?=\{)')
_TAIL = re.compile(r"\s*\}\s*" + END)
_STRUCTURE = re.compile(r'["{}<]')
_IN_STRING = re.compile(r'["\\]')


@dataclass(frozen=True, slots=True)
class Content:
    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the text of a call's arguments."""

    index: int
    text: str


Piece = Content | CallBegun | CallArguments


class _State(Enum):
    TEXT = auto()
    HEAD = auto()
    ARGUMENTS = auto()
    TAIL = auto()


class ToolCallParser:
    """`names`: the tools that may be called. `calls` counts those that have begun."""

    def __init__(self, names: Collection[str], new_id: Callable[[], str]) -> None:
        self._names = names
        self._new_id = new_id
        self._state = _State.TEXT
        # What is not decided yet.
        self._held = ""
        # The line break before a call that may turn out to be none.
        self._line_break = ""
        self._depth = 0
        self._in_string = False
        self.calls = 0

    def add(self, text: str) -> list[Piece]:
        """Return the pieces that no later text can change."""
        if not text:
            return []
        self._held += text
        return _joined(self._settled(len(text)))

    def finish(self) -> list[Piece]:
        """Return the rest, at the text's end."""
        held, self._held = self._held, ""
        match self._state:
            case _State.HEAD:
                return self._whole_call(held) or [Content(self._line_break + BEGIN + held)]
            case _State.ARGUMENTS:
                return _joined([CallArguments(self.calls - 1, held)])
            case _State.TAIL if _may_become_tail(held):
                return []
            case _:
                return _joined([Content(held)])

    def _settled(self, new_chars: int) -> Iterator[Piece]:
        while True:
            before = self._state, len(self._held)
            match self._state:
                case _State.TEXT:
                    yield from self._text()
                case _State.HEAD:
                    yield from self._head(new_chars)
                case _State.ARGUMENTS:
                    yield from self._arguments()
                case _State.TAIL:
                    yield from self._tail()
            if not self._held or (self._state, len(self._held)) == before:
                return
            new_chars = len(self._held)

    def _text(self) -> Iterator[Piece]:
        at = self._held.find(BEGIN)
        if at >= 0:
            text, self._held = self._held[:at], self._held[at + len(BEGIN) :]
            self._state, self._line_break = _State.HEAD, "\n" if text.endswith("\n") else ""
            yield Content(text.removesuffix("\n"))
            return
        keep = _overlap(self._held, (BEGIN, _BEGIN_ON_A_LINE))
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        yield Content(text)

    def _head(self, new_chars: int) -> Iterator[Piece]:
        head = _HEAD.match(self._held[:_MAX_HEAD_CHARS])
        if head is not None and head[1] in self._names:
            self._held = self._held[head.end() :]
            self._state, self._depth, self._in_string = _State.ARGUMENTS, 0, False
            yield self._begun(head[1])
            return
        start = max(len(self._held) - new_chars - len(END), 0)
        ends = [at for tag in (BEGIN, END) if (at := self._held.find(tag, start)) >= 0]
        if not ends:
            return
        at = min(ends)
        inside, rest = self._held[:at], self._held[at:]
        call = self._whole_call(inside) if rest.startswith(END) else None
        self._state = _State.TEXT
        if call:
            self._held = rest.removeprefix(END)
            yield from call
        elif rest.startswith(END):
            self._held = rest.removeprefix(END)
            yield Content(self._line_break + BEGIN + inside + END)
        else:  # another one begins
            text = inside.removesuffix("\n")
            self._held = inside[len(text) :] + rest
            yield Content(self._line_break + BEGIN + text)

    def _arguments(self) -> Iterator[Piece]:
        """Pass on the arguments to the end of their object, or to the end tag where that comes first."""
        held, at = self._held, 0
        while at < len(held):
            found = (_IN_STRING if self._in_string else _STRUCTURE).search(held, at)
            if found is None:
                at = len(held)
                break
            at, character = found.end(), found[0]
            if character == "\\":
                if at == len(held):  # what it escapes is still to come
                    at -= 1
                    break
                at += 1
            elif character == '"':
                self._in_string = not self._in_string
            elif character == "<":
                start = at - 1
                if held.startswith(END, start):
                    self._state, self._held = _State.TEXT, held[start + len(END) :]
                    yield CallArguments(self.calls - 1, held[:start])
                    return
                if END.startswith(held[start:]):
                    at = start
                    break
            else:
                self._depth += 1 if character == "{" else -1
                if self._depth == 0:
                    self._state = _State.TAIL
                    break
        self._held = held[at:]
        yield CallArguments(self.calls - 1, held[:at])

    def _tail(self) -> Iterator[Piece]:
        tail = _TAIL.match(self._held)
        if tail is not None:
            self._held = self._held[tail.end() :]
            self._state = _State.TEXT
        elif not _may_become_tail(self._held):
            self._state = _State.TEXT
        return iter(())

    def _whole_call(self, text: str) -> list[Piece] | None:
        """Return the call of a complete text that has another form than the usual one; None = it is none."""
        try:
            call: Any = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(call, dict):
            return None
        name, arguments = call.get("name"), call.get("arguments", {})
        if not isinstance(name, str) or name not in self._names or not isinstance(arguments, dict):
            return None
        begun = self._begun(name)
        return [begun, CallArguments(begun.index, json.dumps(arguments, ensure_ascii=False))]

    def _begun(self, name: str) -> CallBegun:
        self.calls += 1
        return CallBegun(self.calls - 1, self._new_id(), name)


def _may_become_tail(text: str) -> bool:
    rest = text.lstrip()
    if not rest:
        return True
    return rest.startswith("}") and END.startswith(rest[1:].lstrip())


def _overlap(text: str, patterns: Iterable[str]) -> int:
    """Return the length of the longest suffix of `text` that begins a pattern without completing it."""
    lengths = chain.from_iterable(range(min(len(pattern) - 1, len(text)), 0, -1) for pattern in patterns)
    return max((n for n in lengths if any(pattern.startswith(text[-n:]) for pattern in patterns)), default=0)


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Return the pieces without empty ones, neighbours of one kind joined."""
    out: list[Piece] = []
    for piece in pieces:
        last = out[-1] if out else None
        if isinstance(piece, CallBegun):
            out.append(piece)
        elif not piece.text:
            continue
        elif isinstance(piece, Content) and isinstance(last, Content):
            out[-1] = Content(last.text + piece.text)
        elif isinstance(piece, CallArguments) and isinstance(last, CallArguments) and last.index == piece.index:
            out[-1] = CallArguments(last.index, last.text + piece.text)
        else:
            out.append(piece)
    return out
