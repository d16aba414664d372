"""A turn's events as a transcription: an object, a plain text, or a stream of events. Pure: no clock, no socket."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from services.gateway.http.chat.usage import antiphon_fields
from services.gateway.http.streams import StreamForm, sse
from services.gateway.http.transcription.languages import LANGUAGES
from services.gateway.turn.amounts import sound_ms
from services.gateway.turn.events import FinishReason, Text, TurnDone, TurnEvent, Usage
from services.gateway.turn.prompt import PromptUsage

UNKNOWN = "unknown"
"""The language of an audio, where the request does not say it: the model does not tell."""


class Transcript:
    """The text so far, and how it ended. A chain of thought is no part of it.

    The turns of a recording's pieces follow each other: `next_piece` comes between two of them.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._done = TurnDone(FinishReason.STOP)
        self._usage = Usage()
        self._begins_piece = False
        self._is_cut = False

    def add(self, event: TurnEvent) -> str:
        """Return what the event adds to the text."""
        if isinstance(event, TurnDone):
            self._done = event
            self._is_cut |= event.finish_reason is FinishReason.LENGTH
            self._usage = sum_of(self._usage, event.usage)
        if isinstance(event, Text) and event.content_delta:
            return self._add(event.content_delta)
        return ""

    def next_piece(self) -> None:
        """What comes now is said after a pause."""
        self._begins_piece = True

    def _add(self, delta: str) -> str:
        if self._begins_piece:
            delta = delta.lstrip()
            if not delta:
                return ""
            self._begins_piece = False
            delta = separator(self._parts[-1][-1:] if self._parts else "", delta[0]) + delta
        self._parts.append(delta)
        return delta

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def is_at_limit(self) -> bool:
        """Whether a limit of who asks has ended it: nothing more may come."""
        return bool(self._done.limit)

    def described(self) -> dict[str, Any]:
        """Return OpenAI's fields, and `finish_reason` where a limit or max_tokens cut the text, or a piece of it."""
        described: dict[str, Any] = {"text": self.text, "usage": tokens_usage(self._usage)}
        if self._is_cut:
            described |= {"finish_reason": "length", **antiphon_fields(self._done)}
        return described

    def verbose(self, task: str, language: str | None) -> dict[str, Any]:
        """Return the fields of OpenAI's verbose_json, without segments and words: the model tells no times.

        `duration`, in seconds, is that of the audio as the model heard it: whole tokens of it. `language`: a code.
        """
        described = self.described()
        duration = sound_ms(self._usage.prompt.audio_tokens) / 1000
        named = LANGUAGES[language.lower()].lower() if language is not None else UNKNOWN
        return {
            "task": task,
            "language": named,
            "duration": duration,
            **described,
            "usage": {"type": "duration", "seconds": duration},
        }


def separator(before: str, after: str) -> str:
    """Return what stands between the texts of two pieces, by the characters around it: languages that are written in
    full-width characters have no spaces."""
    if not before or before.isspace() or any(unicodedata.east_asian_width(char) in "WF" for char in (before, after)):
        return ""
    return " "


class TranscriptEvents(StreamForm):
    """`transcript.text.delta` for each part of the text, then `transcript.text.done` with all of it; `of`: what their
    names begin with."""

    def __init__(self, of: str = "transcript") -> None:
        self._of = of
        self._transcript = Transcript()

    async def encoded(self, events: Sequence[TurnEvent], choice: int) -> bytes:
        out: list[dict[str, Any]] = []
        for event in events:
            if delta := self._transcript.add(event):
                out.append({"type": f"{self._of}.text.delta", "delta": delta})
            if isinstance(event, TurnDone):
                out.append({"type": f"{self._of}.text.done", **self._transcript.described()})
        return sse(*out)

    def close(self) -> None:
        pass


def sum_of(one: Usage, other: Usage) -> Usage:
    return Usage(
        prompt=PromptUsage(
            text_tokens=one.prompt.text_tokens + other.prompt.text_tokens,
            image_tokens=one.prompt.image_tokens + other.prompt.image_tokens,
            audio_tokens=one.prompt.audio_tokens + other.prompt.audio_tokens,
            video_tokens=one.prompt.video_tokens + other.prompt.video_tokens,
        ),
        cached_tokens=one.cached_tokens + other.cached_tokens,
        completion_text_tokens=one.completion_text_tokens + other.completion_text_tokens,
        completion_audio_tokens=one.completion_audio_tokens + other.completion_audio_tokens,
        reasoning_tokens=one.reasoning_tokens + other.reasoning_tokens,
    )


def tokens_usage(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's usage of the audio endpoints. The text that is to be said is input; a token of speech is one
    codec frame (80 ms)."""
    prompt = usage.prompt
    read = prompt.text_tokens + prompt.image_tokens + prompt.audio_tokens + prompt.video_tokens
    made = usage.completion_text_tokens + usage.completion_audio_tokens
    return {
        "type": "tokens",
        "input_tokens": read,
        "input_token_details": {"text_tokens": prompt.text_tokens, "audio_tokens": prompt.audio_tokens},
        "output_tokens": made,
        "total_tokens": read + made,
    }
