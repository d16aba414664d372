"""A turn's events as those of DashScope's native form. Pure: no clock, no socket.

An event of a stream has what is new of the text, or, where the client asked for that, all so far; `finish_reason` is
the text "null" until the last one. Audio comes in pieces either way, in `output.audio`. The content of an event without
text is one empty text, so that clients may read the first; it is empty only while the model thinks. All is written like
that first, as multimodal-generation has it; `_shaped` makes the output of text-generation of it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import Any

from services.common.errors import AntiphonError
from services.gateway.audio.encoders import Encoder, encoder_for
from services.gateway.http.chat.base64_chunks import GROUP_BYTES, PCM_GROUP_BYTES, Base64Chunker
from services.gateway.http.chat.completion import CompletionForm, Json, new_call_id
from services.gateway.http.chat.logprobs import logprobs_object
from services.gateway.http.chat.tools.parser import CallArguments, CallBegun, Content, Piece, ToolCallParser
from services.gateway.http.chat.usage import antiphon_fields, ending, usage_object
from services.gateway.http.chat.wire import StreamWriter
from services.gateway.http.dashscope.errors import flat_object
from services.gateway.kept.until import KeptUntil
from services.gateway.turn.events import Speech, SpeechStarted, Text, TurnDone, TurnEvent, TurnStarted

# An event with all of the text is sent once it has grown by this part, so that all events together have at most about
# so many times its bytes.
_GROWTH = 64


class Shape(Enum):
    """Of an output: the content of its messages is a list of parts, or a text; or it is a text without a message."""

    PARTS = auto()
    MESSAGE = auto()
    TEXT = auto()


class NativeStream(StreamWriter):
    end = b""

    def __init__(
        self,
        form: CompletionForm,
        until: Callable[[], KeptUntil],
        shape: Shape = Shape.PARTS,
        *,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._ids = itertools.count(1)
        self._request_id = form.id
        self.choices = [
            NativeChunks(form, until, self._ids, shape, index=index, new_id=new_id) for index in range(form.choices)
        ]

    def failed(self, error: AntiphonError) -> bytes:
        return _sse(next(self._ids), flat_object(error, self._request_id), status=error.status)


class NativeChunks:
    """Writes one choice. `close` it at the end."""

    def __init__(
        self,
        form: CompletionForm,
        until: Callable[[], KeptUntil],
        ids: Iterator[int],
        shape: Shape,
        *,
        index: int,
        new_id: Callable[[], str],
    ) -> None:
        self._form = form
        self._until = until
        self._ids = ids
        self._shape = shape
        self._index = index
        self._calls = ToolCallParser(form.tool_names, new_id)
        self._text_ended = False
        self.has_begun = False
        # So far; `_sent` of the characters were in an event.
        self._said = ""
        self._thought = ""
        self._called: list[Json] = []
        self._sent = 0
        self._encoder: Encoder | None = None
        self._base64 = Base64Chunker(GROUP_BYTES if form.is_encoded else PCM_GROUP_BYTES)
        self._prompt_tokens = self._text_tokens = self._frames = self._codebooks = 0

    @property
    def transcript(self) -> str:
        return self._said

    def encoded(self, event: TurnEvent) -> bytes:
        match event:
            case TurnStarted():
                self.has_begun = self._form.speech
                self._prompt_tokens = len(event.prompt_token_ids)
                return b""
            case Text():
                return self._text(event)
            case SpeechStarted():
                self._codebooks = event.codebooks
                self._encoder = encoder_for(self._form.audio_format, event.sample_rate, streamed=True)
                return b""
            case Speech():
                self._frames += len(event.codes) // (self._codebooks or 1)
                data = self._base64.add(self._encoder.add(event.pcm)) if self._encoder is not None else b""
                return self._event(self._message(""), audio=self._audio(data)) if data else b""
            case TurnDone():
                return self._done(event)

    def end_text(self) -> bytes:
        rest = [] if self._text_ended else self._calls.finish()
        self._text_ended = True
        return self._of_pieces(rest)

    def close(self) -> None:
        if self._encoder is not None:
            self._encoder.close()

    def _text(self, event: Text) -> bytes:
        self._text_tokens += len(event.token_ids)
        thought = b""
        if event.reasoning_delta:
            self._thought += event.reasoning_delta
            message: Json = {"role": "assistant", "content": [], "reasoning_content": event.reasoning_delta}
            if self._shape is not Shape.TEXT:  # that has no place for it
                thought = self._grown(message, event.reasoning_delta)
        pieces: Sequence[Piece] = [Content(event.content_delta)] if event.content_delta else []
        if self._form.tool_names:
            pieces = self._calls.add(event.content_delta)
        fields = {"logprobs": logprobs_object(event.logprobs)} if event.logprobs else {}
        if fields and not pieces and not event.reasoning_delta:
            return self._event(self._message(""), fields)
        return thought + self._of_pieces(pieces, fields)

    def _of_pieces(self, pieces: Sequence[Piece], fields: Json | None = None) -> bytes:
        """`fields`: of the first event's choice."""
        events = b""
        for piece in pieces:
            events += self._of_piece(piece, fields or {})
            fields = {}
        return events

    def _of_piece(self, piece: Piece, fields: Json) -> bytes:
        match piece:
            case Content(text):
                self._said += text
                return self._grown(self._message(text), text, fields)
            case CallBegun(index, call_id, name):
                call: Json = {
                    "index": index,
                    "id": call_id,
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
                self._called.append(call)
            case CallArguments(index, text):
                function = {"name": "", "arguments": text}
                call = {"index": index, "id": "", "type": "function", "function": function}
                self._called[index]["function"]["arguments"] += text
        return self._event({**self._message(""), "tool_calls": [call]}, fields)

    def _grown(self, message: Json, text: str, fields: Json | None = None) -> bytes:
        """Return the event of new text; b"" where it is to wait for more."""
        so_far = len(self._said) + len(self._thought)
        if not self._form.incremental and not fields and so_far - self._sent < self._sent // _GROWTH:
            return b""
        return self._event(message, fields) if text else b""

    def _message(self, text: str) -> Json:
        return {"role": "assistant", "content": [{"text": text}]}

    def _audio(self, data: bytes) -> Json:
        return {"id": self._form.audio_id, "data": data.decode()}

    def _done(self, event: TurnDone) -> bytes:
        rest = self.end_text()
        audio: Json | None = None
        if self._form.speech:
            data = self._base64.add(self._encoder.finish()) if self._encoder is not None else b""
            audio = self._audio(data + self._base64.finish()) | {**self._until().fields}
        reason = ending(event, calls=self._calls.calls)["finish_reason"]
        usage = native_usage(usage_object(event.usage))
        more = antiphon_fields(event)
        return rest + self._event(self._message(""), finish_reason=reason, audio=audio, usage=usage, more=more)

    def _event(
        self,
        message: Json,
        fields: Json | None = None,
        *,
        finish_reason: str = "null",
        audio: Json | None = None,
        usage: Json | None = None,
        more: Json | None = None,
    ) -> bytes:
        if not self._form.incremental:
            message = self._so_far()
        choice = {"index": self._index, "message": message, "finish_reason": finish_reason, **(fields or {})}
        output: Json = {"choices": [choice]}
        if audio is not None:
            output["audio"] = audio
        output = _shaped(output, self._shape)
        event = {"output": output, "usage": usage or self._usage(), "request_id": self._form.id, **(more or {})}
        return _sse(next(self._ids), event)

    def _so_far(self) -> Json:
        self._sent = len(self._said) + len(self._thought)
        message = self._message(self._said)
        if self._thought:
            message["reasoning_content"] = self._thought
            if not self._said and not self._text_ended:
                message["content"] = []
        if self._called:
            message["tool_calls"] = self._called
        return message

    def _usage(self) -> Json:
        made = self._text_tokens + self._frames
        return {
            "input_tokens": self._prompt_tokens,
            "output_tokens": made,
            "total_tokens": self._prompt_tokens + made,
        }


def native_answer(form: CompletionForm, completion: Mapping[str, Any], shape: Shape = Shape.PARTS) -> Json:
    """Return the whole answer, given OpenAI's object of it."""
    output: Json = {"choices": [_native_choice(choice) for choice in completion["choices"]]}
    audio = completion["choices"][0]["message"].get("audio")
    if audio is not None:
        told_of_audio = ("id", "data", "expires_at", "file_id")
        output["audio"] = {name: audio[name] for name in told_of_audio if name in audio}
    answer: Json = {"output": _shaped(output, shape), "usage": native_usage(completion["usage"]), "request_id": form.id}
    told = ("antiphon_limit", "antiphon_dropped_messages", "antiphon_derailment", "antiphon_spoken_again")
    return answer | {name: completion[name] for name in told if name in completion}


def _shaped(output: Json, shape: Shape) -> Json:
    """Return an output of parts in a shape; without a message it has one choice."""
    if shape is Shape.PARTS:
        return output
    for choice in output["choices"]:
        message = choice["message"]
        choice["message"] = {**message, "content": "".join(part["text"] for part in message["content"])}
    if shape is Shape.MESSAGE:
        return output
    (choice,) = output.pop("choices")
    return {"text": choice["message"]["content"], "finish_reason": choice["finish_reason"], **output}


def _native_choice(choice: Mapping[str, Any]) -> Json:
    told = choice["message"]
    message: Json = {"role": "assistant", "content": [{"text": told["content"] or ""}]}
    if "reasoning_content" in told:
        message["reasoning_content"] = told["reasoning_content"]
    if "tool_calls" in told:
        message["tool_calls"] = [{"index": index, **call} for index, call in enumerate(told["tool_calls"])]
    made: Json = {"index": choice["index"], "message": message, "finish_reason": choice["finish_reason"]}
    if choice["logprobs"] is not None:
        made["logprobs"] = choice["logprobs"]
    return made


def native_usage(usage: Mapping[str, Any]) -> Json:
    """Return DashScope's usage, given OpenAI's."""
    prompt, completion = usage["prompt_tokens_details"], usage["completion_tokens_details"]
    by_modality = ("image_tokens", "audio_tokens", "video_tokens")
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
        **{name: prompt[name] for name in by_modality},
        "input_tokens_details": {name: prompt[name] for name in ("text_tokens", *by_modality)},
        "output_tokens_details": completion,
        "prompt_tokens_details": {"cached_tokens": prompt["cached_tokens"]},
    }


def _sse(id: int, event: Mapping[str, Any], *, status: int = 200) -> bytes:
    """Return an event as DashScope writes it. Its client takes an error's status from a field that is no standard's."""
    kind = "result" if status == 200 else "error"
    about = f"id:{id}\nevent:{kind}\n:HTTP_STATUS/{status}\n" + (f"status:{status}\n" if status != 200 else "")
    return f"{about}data:{json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
