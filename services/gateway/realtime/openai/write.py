"""A session's events in the form of OpenAI's Realtime API. Pure: no socket."""

from __future__ import annotations

import base64
from typing import Any

from services.common.errors import AntiphonError
from services.gateway.realtime.audio.formats import AudioFormat, AudioWriter
from services.gateway.realtime.conversation import Item, SpeechContent, TextContent
from services.gateway.realtime.events import (
    AnswerHeld,
    ArgumentsDelta,
    AudioCleared,
    AudioCommitted,
    AudioDelta,
    Event,
    ItemAdded,
    ItemDeleted,
    ItemRetrieved,
    ItemTruncated,
    OutputDone,
    OutputStarted,
    Refused,
    ResponseCreated,
    ResponseDone,
    SilenceTimedOut,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TranscriptDelta,
    TranscriptDone,
    TranscriptFailed,
)
from services.gateway.realtime.openai.items import item_object
from services.gateway.realtime.openai.options import response_options_object
from services.gateway.realtime.response import CancelledBy, Response, ResponseStatus
from services.gateway.turn.events import Usage

Json = dict[str, Any]
_CANCEL_REASONS = {CancelledBy.CLIENT: "client_cancelled", CancelledBy.TURN: "turn_detected"}


class EventWriter:
    """Writes one session's events, its audio in the formats that the client asked for."""

    def __init__(self, input_format: AudioFormat = AudioFormat.PCM) -> None:
        self.input_format = input_format
        # Of the responses that speak now.
        self._audio: dict[str, AudioWriter] = {}

    def written(self, event: Event) -> list[Json]:
        """Return the server events, without their event_id."""
        match event:
            case AudioDelta(response, item, pcm):
                writer = self._audio.get(response.id)
                if writer is None:
                    writer = self._audio[response.id] = AudioWriter(response.options.audio_format)
                encoded = base64.b64encode(writer.write(pcm)).decode()
                return [_of_part("response.output_audio.delta", response, item, delta=encoded)] if encoded else []
            case ItemRetrieved(item):
                return [{"type": "conversation.item.retrieved", "item": item_object(item, self.input_format)}]
            case ResponseDone(response):
                self._audio.pop(response.id, None)
                return [{"type": "response.done", "response": response_object(response)}]
            case TextDelta(response, item, text):
                is_spoken = isinstance(item.contents[0], SpeechContent)
                kind = "response.output_audio_transcript.delta" if is_spoken else "response.output_text.delta"
                return [_of_part(kind, response, item, delta=text)]
            case ArgumentsDelta(response, item, text):
                call_id = item.call.call_id if item.call is not None else ""
                kind = "response.function_call_arguments.delta"
                return [_of_item(kind, response, item, call_id=call_id, delta=text)]
            case AudioCommitted(item_id, previous_id):
                return [{"type": "input_audio_buffer.committed", "item_id": item_id, "previous_item_id": previous_id}]
            case SpeechStarted(item_id, start_ms):
                return [{"type": "input_audio_buffer.speech_started", "item_id": item_id, "audio_start_ms": start_ms}]
            case SpeechStopped(item_id, end_ms):
                return [{"type": "input_audio_buffer.speech_stopped", "item_id": item_id, "audio_end_ms": end_ms}]
            case AnswerHeld():
                return []  # the dialect has no word for it
            case SilenceTimedOut(item_id, start_ms, end_ms):
                segment = {"item_id": item_id, "audio_start_ms": start_ms, "audio_end_ms": end_ms}
                return [{"type": "input_audio_buffer.timeout_triggered", **segment}]
            case Refused(error):
                return [error_event(error, None)]
            case AudioCleared():
                return [{"type": "input_audio_buffer.cleared"}]
            case ItemAdded(item, previous_id):
                shown = {"previous_item_id": previous_id, "item": item_object(item)}
                return [{"type": f"conversation.item.{what}", **shown} for what in ("added", "done")]
            case TranscriptDelta(item_id, text):
                return [_of_transcript("delta", item_id, delta=text)]
            case TranscriptDone(item_id, text, usage):
                return [_of_transcript("completed", item_id, transcript=text, usage=_transcript_usage(usage))]
            case TranscriptFailed(item_id, error):
                shown = {"type": error.type, "code": error.code, "message": error.message}
                return [_of_transcript("failed", item_id, error=shown)]
            case ItemDeleted(item_id):
                return [{"type": "conversation.item.deleted", "item_id": item_id}]
            case ItemTruncated(item_id, audio_end_ms):
                truncated = {"item_id": item_id, "content_index": 0, "audio_end_ms": audio_end_ms}
                return [{"type": "conversation.item.truncated", **truncated}]
            case ResponseCreated(response):
                return [{"type": "response.created", "response": response_object(response)}]
            case OutputStarted():
                return _started(event)
            case OutputDone():
                return _done(event)


def error_event(error: AntiphonError, client_event_id: str | None) -> Json:
    """Return the `error` event. `client_event_id` is the id of the client event that is at fault."""
    shown = {"type": error.type, "code": error.code, "message": error.message, "param": error.param}
    return {"type": "error", "error": {**shown, "event_id": client_event_id}}


def response_object(response: Response) -> Json:
    shown: Json = {
        "id": response.id,
        "object": "realtime.response",
        "status": response.status.value,
        "status_details": _status_details(response),
        "output": [item_object(item) for item in response.items],
        "conversation_id": response.conversation_id,
        **response_options_object(response.options),
        "metadata": response.metadata,
        "usage": None,
    }
    if response.usage is not None:
        shown["usage"] = usage_object(response.usage)
    return shown


def usage_object(usage: Usage) -> Json:
    """Return the API's usage. An audio token of the answer is one codec frame (80 ms). Reasoning counts as text."""
    prompt = usage.prompt
    read = prompt.text_tokens + prompt.image_tokens + prompt.audio_tokens + prompt.video_tokens
    made = usage.completion_text_tokens + usage.completion_audio_tokens
    return {
        "total_tokens": read + made,
        "input_tokens": read,
        "output_tokens": made,
        "input_token_details": {
            "text_tokens": prompt.text_tokens,
            "audio_tokens": prompt.audio_tokens,
            "image_tokens": prompt.image_tokens,
            **({"video_tokens": prompt.video_tokens} if prompt.video_tokens else {}),
            "cached_tokens": usage.cached_tokens,
        },
        "output_token_details": {
            "text_tokens": usage.completion_text_tokens,
            "audio_tokens": usage.completion_audio_tokens,
        },
    }


def _of_transcript(what: str, item_id: str, **fields: Any) -> Json:
    kind = f"conversation.item.input_audio_transcription.{what}"
    return {"type": kind, "item_id": item_id, "content_index": 0, **fields}


def _transcript_usage(usage: Usage) -> Json:
    shown = usage_object(usage)
    read = {kind: shown["input_token_details"][kind] for kind in ("text_tokens", "audio_tokens")}
    counts = {name: shown[name] for name in ("total_tokens", "input_tokens", "output_tokens")}
    return {"type": "tokens", **counts, "input_token_details": read}


def _status_details(response: Response) -> Json | None:
    match response.status:
        case ResponseStatus.IN_PROGRESS:
            return None
        case ResponseStatus.COMPLETED:
            spoken = _speech_details(response)
            return {"type": "completed", **spoken} if spoken else None
        case ResponseStatus.CANCELLED:
            return {"type": "cancelled", "reason": _CANCEL_REASONS[response.cancelled_by]}
        case ResponseStatus.INCOMPLETE:
            named = {"antiphon_limit": response.limit} if response.limit else {}
            return {"type": "incomplete", "reason": "max_output_tokens", **named, **_speech_details(response)}
        case ResponseStatus.FAILED:
            error = response.error
            shown = {"type": error.type, "code": error.code, "message": error.message} if error is not None else None
            return {"type": "failed", "error": shown}


def _speech_details(response: Response) -> Json:
    """Return what tells of speech that no longer followed its text, if it did not."""
    why, again = response.derailment, response.spoken_again
    return {
        **({"antiphon_derailment": why.value} if why is not None else {}),
        **({"antiphon_spoken_again": again} if again else {}),
    }


def _started(event: OutputStarted) -> list[Json]:
    response, item = event.response, event.item
    shown, call = item_object(item), item.call
    if call is None:
        shown["content"] = []  # until its part is added
    part = {"type": "text", "text": ""}
    if isinstance(item.contents[0], SpeechContent):
        part = {"type": "audio", "transcript": ""}
    added = {"type": "conversation.item.added", "previous_item_id": event.previous_id, "item": shown}
    return [
        _of_output("response.output_item.added", response, item, item=shown),
        *([added] if response.conversation_id is not None else []),
        *([_of_part("response.content_part.added", response, item, part=part)] if call is None else []),
    ]


def _done(event: OutputDone) -> list[Json]:
    response, item = event.response, event.item
    shown = item_object(item)
    done = {"type": "conversation.item.done", "previous_item_id": event.previous_id, "item": shown}
    return [
        *_ended(response, item),
        *([done] if response.conversation_id is not None else []),
        _of_output("response.output_item.done", response, item, item=shown),
    ]


def _ended(response: Response, item: Item) -> list[Json]:
    """Return the events of the end of what the item holds."""
    content, call = item.contents[0], item.call
    if call is not None:
        kind = "response.function_call_arguments.done"
        whole = {"call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        return [_of_item(kind, response, item, **whole)]
    ended: list[Json]
    if isinstance(content, SpeechContent):
        text = content.spoken.heard_text
        part = {"type": "audio", "transcript": text}
        ended = [
            _of_part("response.output_audio.done", response, item),
            _of_part("response.output_audio_transcript.done", response, item, transcript=text),
        ]
    else:
        text = content.text if isinstance(content, TextContent) else ""
        part = {"type": "text", "text": text}
        ended = [_of_part("response.output_text.done", response, item, text=text)]
    return [*ended, _of_part("response.content_part.done", response, item, part=part)]


def _of_output(kind: str, response: Response, of: Item, **fields: Any) -> Json:
    return {"type": kind, "response_id": response.id, "output_index": response.index_of(of), **fields}


def _of_item(kind: str, response: Response, of: Item, **fields: Any) -> Json:
    return _of_output(kind, response, of, item_id=of.id, **fields)


def _of_part(kind: str, response: Response, of: Item, **fields: Any) -> Json:
    """Return an event of the item's only part."""
    return _of_item(kind, response, of, content_index=0, **fields)
