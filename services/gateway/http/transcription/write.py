"""A turn's events as a transcription: an object, a plain text, or a stream of events. Pure: no clock, no socket."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from services.gateway.http.chat.usage import antiphon_fields
from services.gateway.http.streams import StreamForm, sse
from services.gateway.http.transcription.languages import LANGUAGES
from services.gateway.http.transcription.subtitles import Segment, SubtitleFormat, subtitles
from services.gateway.turn.amounts import sound_ms
from services.gateway.turn.events import FinishReason, Text, TurnDone, TurnEvent, Usage
from services.gateway.turn.prompt import PromptUsage

UNKNOWN = "unknown"
"""The language of an audio, where the request does not say it: the model does not tell."""


class Transcript:
    """The text so far, and how it ended. A chain of thought is no part of it.

    The turns of a recording's pieces follow each other: `end_piece` comes after each of them.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._done = TurnDone(FinishReason.STOP)
        self._usage = Usage()
        self._begins_piece = False
        self._is_cut = False
        # Of a recording that is cut: the pieces that say something, where the last one ends, and its first part.
        self._segments: list[Segment] = []
        self._end_s: float | None = None
        self._piece_at = 0

    def add(self, event: TurnEvent) -> str:
        """Return what the event adds to the text."""
        if isinstance(event, TurnDone):
            self._done = event
            self._is_cut |= event.finish_reason is FinishReason.LENGTH
            self._usage = sum_of(self._usage, event.usage)
        if isinstance(event, Text) and event.content_delta:
            return self._add(event.content_delta)
        return ""

    def end_piece(self, end_s: float) -> None:
        """The recording's piece up to `end_s` is written. What comes now is said after a pause."""
        text = "".join(self._parts[self._piece_at :]).strip()
        if text:
            self._segments.append(Segment(self._end_s or 0.0, end_s, text))
        self._end_s, self._piece_at, self._begins_piece = end_s, len(self._parts), True

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
        """Return the fields of OpenAI's verbose_json. The model tells no times: segments are the pieces of a recording
        that is cut, and there are no words.

        `duration`, in seconds, is that of the pieces; of a recording that is not cut, that of the audio as the model
        heard it: whole tokens of it. `language`: a code.
        """
        described, duration = self.described(), sound_ms(self._usage.prompt.audio_tokens) / 1000
        if self._end_s is not None:
            duration = round(self._end_s, 3)
            described["segments"] = [
                {"id": id, "start": round(one.start_s, 3), "end": round(one.end_s, 3), "text": one.text}
                for id, one in enumerate(self._segments)
            ]
        named = LANGUAGES[language.lower()].lower() if language is not None else UNKNOWN
        return {
            "task": task,
            "language": named,
            "duration": duration,
            **described,
            "usage": {"type": "duration", "seconds": duration},
        }

    def subtitles(self, kind: SubtitleFormat) -> str:
        """Return the segments as a file of subtitles."""
        return subtitles(self._segments, kind)


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
