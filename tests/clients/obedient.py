"""A scripted model that says what the conversation tells it to.

The last message of the user says it, a line for each: `say TEXT`, `call NAME JSON`, `roles` (those of all messages) or
`read N` (the text of message N). Calls are made first; once the last message is a tool's result, the rest is said.
`busy` refuses the same text the first time, as a full queue does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from antiphon.v1 import common_pb2
from services.common.errors import Capacity
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.story import Story

CALL, END_CALL = "<tool_call>", "</tool_call>"
_CALL_TOKEN = 98
_DIRECTIVE = re.compile(r"^\s*(say|call|roles|read|busy)\b ?(.*)$", re.MULTILINE)
_WORDS = re.compile(r"\s*\S+\s*?", re.DOTALL)


def card() -> common_pb2.ModelCard:
    described = common_pb2.ModelCard(structures_answers=True, tool_call_token_id=_CALL_TOKEN)
    described.MergeFrom(INSTRUCT)
    described.max_model_len = 100_000
    return described


@dataclass(frozen=True, slots=True)
class ObedientStory(Story):
    """The answer to the last prompt: only one turn may run at a time."""

    said: list[str] = field(default_factory=list[str])
    _refused: set[str] = field(default_factory=set[str])

    @property
    def token_ids(self) -> list[int]:
        return [*(_CALL_TOKEN if word == CALL else 100 + n for n, word in enumerate(self.said)), 9_999]

    @property
    def spoken_ids(self) -> list[int]:
        ids = self.token_ids
        return ids[: ids.index(_CALL_TOKEN) + 1] if _CALL_TOKEN in ids else ids

    @property
    def text(self) -> str:
        return "".join(self.said)

    def _word(self, index: int) -> str:
        return self.said[index] if index < len(self.said) else ""

    def prompt(self, start: Any) -> tuple[list[int], int]:
        text = _text(start.messages[-1])
        if re.search(r"^busy\b", text, re.MULTILINE) and text not in self._refused:
            self._refused.add(text)
            raise Capacity("The queue is full.", retry_after_s=0.1)
        self.said[:] = answer(start.messages)
        object.__setattr__(self, "words", len(self.said))
        return super(ObedientStory, self).prompt(start)


def answer(messages: Sequence[Any]) -> list[str]:
    """Return the words, one token each, that the conversation asks for."""
    roles = [_role(message) for message in messages]
    last_user = max((n for n, role in enumerate(roles) if role == "user"), default=-1)
    told: list[tuple[str, str]] = _DIRECTIVE.findall(_text(messages[last_user])) if last_user >= 0 else []
    is_after_call = "tool" in roles[last_user + 1 :]
    words: list[str] = []
    for what, rest in told:
        if what == "call" and not is_after_call:
            name, _, arguments = rest.partition(" ")
            call = f'\n{{"name": "{name}", "arguments": {arguments}}}\n'
            words += [*(["\n"] if words else []), CALL, *_WORDS.findall(call), "\n", END_CALL]
    if words:
        return words
    for what, rest in told:
        match what:
            case "say":
                words += _WORDS.findall(rest)
            case "roles":
                words += _WORDS.findall(" ".join(roles))
            case "read":
                words += _WORDS.findall(_text(messages[int(rest)]))
            case _:
                pass
    return words or ["Nothing ", "was ", "asked."]


def _role(message: Any) -> str:
    """Return the message's role. Some clients send results of tools as the chat template shows them to the model."""
    is_result = message.role == "user" and _text(message).lstrip().startswith("<tool_response>")
    return "tool" if is_result else message.role


def _text(message: Any) -> str:
    return "\n".join(part.text if part.WhichOneof("content") == "text" else "<media>" for part in message.parts)
