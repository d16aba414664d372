"""A session's events in the form of OpenAI's Live API. Pure: no socket."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from services.common.errors import AntiphonError
from services.gateway.realtime.audio.formats import AudioFormat, AudioWriter
from services.gateway.realtime.conversation import SAMPLE_RATE, CallContent, Item, ItemStatus, SpeechContent
from services.gateway.realtime.events import (
    AudioDelta,
    Event,
    OutputDone,
    Refused,
    ResponseDone,
    SilenceTimedOut,
    SpeechStarted,
    SpeechStopped,
    TranscriptDelta,
    TranscriptDone,
    TranscriptFailed,
)
from services.gateway.realtime.live.timeline import Timeline
from services.gateway.realtime.response import Response
from services.gateway.realtime.session import Session

Json = dict[str, Any]

AUDIO_DELTA = "session.output_audio.delta"
# Turns whose transcripts have not come yet.
_MOST_TURNS = 32


class LiveEvents:
    """Writes one session's events. `now_ms`: the session's clock."""

    def __init__(self, session: Session, audio_format: AudioFormat, now_ms: Callable[[], float]) -> None:
        self.timeline = Timeline()
        self.is_user_speaking = False
        self._session = session
        self._format = audio_format
        self._now_ms = now_ms
        # Of the responses that speak now: their audio, and what of their text was sent. Silence is nobody's.
        self._audio: dict[str, AudioWriter] = {}
        self._silence = AudioWriter(audio_format)
        self._sent_chars: dict[str, int] = {}
        # The place of the last audio that was sent.
        self._span = (0, 0)
        # The turns of the user by their items: where they begin and end in the user's audio.
        self._turns: dict[str, tuple[int, int]] = {}
        # How much of the model's context the last response took.
        self._usage_ratio: float | None = None

    def written(self, event: Event) -> list[Json]:
        """Return the server events, without their event_id."""
        match event:
            case SpeechStarted(item_id, start_ms):
                self.is_user_speaking = True
                self._note_turn(item_id, start_ms, start_ms)
            case SpeechStopped(item_id, end_ms):
                self.is_user_speaking = False
                self._note_turn(item_id, self._turns.get(item_id, (end_ms, end_ms))[0], end_ms)
            case SilenceTimedOut(item_id, start_ms, end_ms):
                self._note_turn(item_id, start_ms, end_ms)
            case TranscriptDelta(item_id, text):
                return [_transcript("input", text, self._turn_span(item_id))]
            case TranscriptDone(item_id):
                self._turns.pop(item_id, None)
            case TranscriptFailed(item_id, error):
                self._turns.pop(item_id, None)
                return [info_event(error.code, f"What the user said was not transcribed. {error.message}")]
            case AudioDelta(response, item, pcm):
                return self._spoken(response, item, pcm)
            case OutputDone(response, item):
                return self._item_done(item)
            case ResponseDone(response):
                self._audio.pop(response.id, None)
                return self._response_done(response)
            case Refused(error):
                return [error_event(error, None)]
            case _:
                pass  # the dialect has no word for it
        return []

    def usage_event(self) -> Json:
        ratio = self._usage_ratio
        window = {"context_window": {"usage_ratio": ratio}} if ratio is not None else {}
        return {"type": "session.usage.updated", "usage": self.usage(), **window}

    def usage(self) -> Json:
        return {"seconds": round(self.timeline.used_s, 3)}

    def silence(self, length_ms: float) -> Json:
        """Return silence of the model, behind all that it has said until now."""
        pcm = bytes(round(length_ms * SAMPLE_RATE / 1000) * 2)
        return _audio(self._silence.write(pcm), self.timeline.be_silent(length_ms))

    # The user

    def _note_turn(self, item_id: str, start_ms: int, end_ms: int) -> None:
        self._turns[item_id] = start_ms, end_ms
        if len(self._turns) > _MOST_TURNS:
            del self._turns[next(iter(self._turns))]

    def _turn_span(self, item_id: str) -> tuple[int, int]:
        start_ms, end_ms = self._turns.get(item_id, (0, 0))
        return self.timeline.at(start_ms), self.timeline.at(end_ms)

    # The answer

    def _spoken(self, response: Response, item: Item, pcm: bytes) -> list[Json]:
        writer = self._audio.get(response.id)
        if writer is None:
            writer = self._audio[response.id] = AudioWriter(self._format)
        events = self._said(item)  # with the audio before
        self._span = self.timeline.say(len(pcm) // 2 * 1000 / SAMPLE_RATE, self._now_ms())
        if written := writer.write(pcm):
            events.append(_audio(written, self._span))
        return events

    def _said(self, item: Item) -> list[Json]:
        """Return the text that the audio until now is of, as far as it was not sent."""
        content = item.contents[0]
        if not isinstance(content, SpeechContent):
            return []
        text, sent = content.spoken.sent_text, self._sent_chars.get(item.id, 0)
        self._sent_chars[item.id] = len(text)
        return [_transcript("output", text[sent:], self._span)] if len(text) > sent else []

    def _item_done(self, item: Item) -> list[Json]:
        call = item.call
        if call is None:
            events = self._said(item)
            self._sent_chars.pop(item.id, None)
            return events
        return [self._delegated(call)] if item.status is ItemStatus.COMPLETED else []

    def _delegated(self, call: CallContent) -> Json:
        task = json.loads(call.arguments).get("task")
        delegation = {"type": "delegation", "id": call.call_id, "target": "client", "antiphon_task": task}
        return {
            "type": "session.delegation.created",
            "delegation": {key: value for key, value in delegation.items() if value is not None},
            "offset_ms": round(self._now_ms()),
        }

    def _response_done(self, response: Response) -> list[Json]:
        events = [error_event(response.error, None)] if response.error is not None else []
        if response.limit:
            events.append(info_event(response.limit, "This limit cut the answer."))
        if again := response.spoken_again:
            events.append(info_event("antiphon_spoken_again", f"The speech left its text. Spoken again: {again}."))
        if response.derailment is not None:
            events.append(info_event("antiphon_derailment", f"The speech left its text: {response.derailment.value}."))
        if (usage := response.usage) is not None:
            prompt = usage.prompt
            read = prompt.text_tokens + prompt.image_tokens + prompt.audio_tokens + prompt.video_tokens
            ratio = (read + usage.completion_text_tokens) / max(self._session.model.max_model_len, 1)
            self._usage_ratio = round(ratio, 4)
        return [*events, self.usage_event()]


def error_event(error: AntiphonError, client_event_id: str | None) -> Json:
    """Return the `error` event. `client_event_id` is the id of the client event that is at fault."""
    shown = {"type": error.type, "code": error.code, "message": error.message, "param": error.param}
    return {"type": "error", "error": _without_nulls({**shown, "client_event_id": client_event_id})}


def info_event(code: str, message: str) -> Json:
    return {"type": "info", "code": code, "message": message}


def session_object(session: Session, audio_format: AudioFormat) -> Json:
    """Return the session as the client sees it."""
    kind = "audio/pcm" if audio_format.is_pcm else f"audio/{audio_format.value}"
    voice = {"output": {"voice": session.options.speech.voice}} if session.options.speech.voice else {}
    return {
        "id": session.id,
        "expires_at": session.expires_unix_s,
        "status": "active",
        "model": session.model.name,
        "instructions": session.options.instructions,
        "audio": {"format": {"type": kind, "rate": audio_format.rate}, **voice},
        "delegation": {"type": "client"},
        "store": False,
    }


def _audio(written: bytes | memoryview, span: tuple[int, int]) -> Json:
    delta = base64.b64encode(written).decode()
    return {"type": AUDIO_DELTA, "delta": delta, "start_ms": span[0], "end_ms": span[1]}


def _transcript(whose: str, text: str, span: tuple[int, int]) -> Json:
    return {"type": f"session.{whose}_transcript.delta", "delta": text, "start_ms": span[0], "end_ms": span[1]}


def _without_nulls(fields: Json) -> Json:
    return {key: value for key, value in fields.items() if value is not None}
