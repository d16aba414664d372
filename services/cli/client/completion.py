"""One answer of the chat API: asked for, and read as it streams."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from services.cli.client.errors import ClientError
from services.cli.client.events import read_events
from services.cli.client.screen import Screen
from services.cli.client.server import Server

PATH = "/chat/completions"
CUT = "The answer reached a limit and is cut off there (finish_reason length)."


def derailed(why: str) -> str:
    return f"The speech no longer followed its text ({why}) and ends there."


class Sound(Protocol):
    """Where speech goes: a file, or the player."""

    format: str
    """As the chat API calls it."""

    def write(self, data: bytes) -> None:
        """Take more bytes of the format."""
        ...


@dataclass
class Completion:
    """What has arrived of an answer."""

    text: str = ""
    thought: bool = False
    finish_reason: str | None = None
    # Why its speech no longer followed its text, and ended.
    derailment: str = ""


def stream_answer(server: Server, body: Mapping[str, Any], screen: Screen, sound: Sound | None = None) -> Completion:
    """Ask with `body`, show the text and pass the speech on as they come. Return the whole answer.

    Raise ClientError where it is refused or breaks off.
    """
    answer = Completion()
    with screen.answer(), server.stream(server.post_json(PATH, {**body, "stream": True})) as response:
        for chunk in read_events(response):
            answer.derailment = chunk.get("antiphon_derailment") or answer.derailment
            for choice in chunk.get("choices") or ():
                answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
                _take(choice.get("delta") or {}, answer, screen, sound.write if sound else None)
    if answer.finish_reason is None:
        raise ClientError("The connection ended before the answer did.")
    if answer.finish_reason == "length":
        screen.remark(CUT)
    if answer.derailment:
        screen.complain(derailed(answer.derailment))  # to whoever uses the speech, too
    return answer


def _take(delta: Mapping[str, Any], answer: Completion, screen: Screen, write: Callable[[bytes], None] | None) -> None:
    audio = delta.get("audio") or {}
    if thought := delta.get("reasoning_content"):
        answer.thought = True
        screen.reasoning(thought)
    if text := delta.get("content") or audio.get("transcript"):
        if answer.thought and not answer.text:
            screen.paragraph()
        answer.text += text
        screen.text(text)
    if write and (data := audio.get("data")):
        write(base64.b64decode(data))
