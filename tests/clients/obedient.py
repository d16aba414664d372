"""A scripted model that says what the conversation tells it to.

The last message of the user says it, a line for each: `say TEXT`, `call NAME JSON`, `roles` (those of all messages) or
`read N` (the text of message N). Calls are made first; once the last message is a tool's result, the rest is said.
`busy` refuses the same text the first time, as a full queue does. To audio that comes without such a text, the first
message has the answers: its first paragraph to the first audio of the conversation, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from antiphon.v1 import common_pb2
from services.common.errors import Capacity
from tests.gateway.conftest import INSTRUCT
from tests.gateway.realtime.asides import TRANSCRIBED, TRANSCRIPT, kind_of
from tests.gateway.realtime.talking import FRAME_MS, LongStory
from tests.gateway.scripted.story import SaidStory, Story

CALL, END_CALL = "<tool_call>", "</tool_call>"
_CALL_TOKEN = 98
_FIRST_ANSWER = 10_000
# 5 ms of 200 Hz.
_BUZZ = b"".join(level.to_bytes(2, "little", signed=True) * 60 for level in (8000, -8000))
_DIRECTIVE = re.compile(r"^\s*(say|call|roles|read|busy)\b ?(.*)$", re.MULTILINE)
_WORDS = re.compile(r"\s*\S+\s*?", re.DOTALL)


def card() -> common_pb2.ModelCard:
    described = common_pb2.ModelCard(structures_answers=True, tool_call_token_id=_CALL_TOKEN)
    described.MergeFrom(INSTRUCT)
    described.max_model_len = 100_000
    described.voices.append("aiden")  # openai-agents' own
    return described


@dataclass(frozen=True, slots=True)
class Answer(LongStory, SaidStory):
    """Words, one token each. Those before the first call are spoken aloud (LiveKit plays no silence), 100 ms each."""

    def __post_init__(self) -> None:
        super(Answer, self).__post_init__()
        object.__setattr__(self, "frames", max(len(self.spoken_ids) - 1, 1))

    @property
    def token_ids(self) -> list[int]:
        return [*(_CALL_TOKEN if word == CALL else 100 + n for n, word in enumerate(self.said)), 9_999]

    def _samples(self, frame: int) -> bytes:
        return _BUZZ * (FRAME_MS // 5)

    @property
    def spoken_ids(self) -> list[int]:
        ids = self.token_ids
        return ids[: ids.index(_CALL_TOKEN) + 1] if _CALL_TOKEN in ids else ids


@dataclass(frozen=True, slots=True)
class ObedientStory(Story):
    """The answers to all prompts. The last token of each prompt says which one is its own."""

    _answers: list[Answer] = field(default_factory=list[Answer])
    _refused: set[str] = field(default_factory=set[str])

    def prompt(self, start: Any) -> tuple[list[int], int]:
        text = _text(start.messages[-1])
        if re.search(r"^busy\b", text, re.MULTILINE) and text not in self._refused:
            self._refused.add(text)
            raise Capacity("The queue is full.", retry_after_s=0.1)
        ids, items = super(ObedientStory, self).prompt(start)
        self._answers.append(Answer(said=tuple(_said(start))))
        return [*ids, _FIRST_ANSWER + len(self._answers) - 1], items

    def answering(self, prompt: list[int]) -> Story:
        return self._answers[prompt[-1] - _FIRST_ANSWER]


def _said(start: Any) -> Sequence[str]:
    kind = kind_of(start)
    if kind is None:
        return answer(start.messages)
    return TRANSCRIPT if kind == TRANSCRIBED else ["yes"]


def answer(messages: Sequence[Any]) -> list[str]:
    """Return the words, one token each, that the conversation asks for."""
    roles = [_role(message) for message in messages]
    last_user = max((n for n, role in enumerate(roles) if role == "user"), default=-1)
    told = _told(messages, last_user)
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


def _told(messages: Sequence[Any], last_user: int) -> list[tuple[str, str]]:
    """Return the directives, and what each is about, that hold for this message of the user."""
    if last_user < 0:
        return []
    told: list[tuple[str, str]] = _DIRECTIVE.findall(_text(messages[last_user]))
    spoken = [n for n, message in enumerate(messages[: last_user + 1]) if "<audio>" in _text(message)]
    if told or last_user not in spoken:
        return told
    paragraphs = _text(messages[0]).split("\n\n")
    return _DIRECTIVE.findall(paragraphs[len(spoken) - 1]) if len(spoken) <= len(paragraphs) else []


def _role(message: Any) -> str:
    """Return the message's role. Some clients send results of tools as the chat template shows them to the model."""
    is_result = message.role == "user" and _text(message).lstrip().startswith("<tool_response>")
    return "tool" if is_result else message.role


def _text(message: Any) -> str:
    kinds = [(part, part.WhichOneof("content")) for part in message.parts]
    return "\n".join(part.text if kind == "text" else f"<{kind}>" for part, kind in kinds)
