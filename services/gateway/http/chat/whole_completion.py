"""The events of a request's turns as one chat completion. Pure: no clock, no socket."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from services.gateway.audio.encoders import Encoder, encoder_for
from services.gateway.http.chat.completion import CompletionForm, Json, new_call_id
from services.gateway.http.chat.logprobs import logprobs_object
from services.gateway.http.chat.tools.parser import CallBegun, Content, Piece, ToolCallParser
from services.gateway.http.chat.usage import UsageTally, antiphon_fields, ending, usage_object
from services.gateway.kept.until import KeptUntil
from services.gateway.turn.events import (
    FinishReason,
    Speech,
    SpeechStarted,
    Text,
    TokenLogprobs,
    TurnDone,
    TurnEvent,
    TurnStarted,
)


class WholeChoice:
    """Turns the events of one choice into it. `close` it at the end."""

    def __init__(
        self,
        form: CompletionForm,
        until: Callable[[], KeptUntil],
        *,
        index: int = 0,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._form = form
        self._until = until
        self._index = index
        self._calls = ToolCallParser(form.tool_names, new_id)
        self._content: list[str] = []
        self._tool_calls: list[Json] = []
        self._reasoning: list[str] = []
        self._logprobs: list[TokenLogprobs] = []
        self.prompt_token_ids: list[int] = []
        self._token_ids: list[int] = []
        self._encoder: Encoder | None = None
        self._data = bytearray()
        self._codes = array("I")
        self._codebooks = 0
        self.done = TurnDone(FinishReason.STOP)

    def add(self, event: TurnEvent) -> None:
        match event:
            case TurnStarted():
                if self._form.token_ids:
                    self.prompt_token_ids.extend(event.prompt_token_ids)
            case Text():
                self._add_text(event)
            case SpeechStarted():
                self._codebooks = event.codebooks
                self._encoder = encoder_for(self._form.audio_format, event.sample_rate, streamed=False)
            case Speech():
                if self._encoder is not None:
                    self._data += self._encoder.add(event.pcm)
                if self._form.token_ids:
                    self._codes.extend(event.codes)
            case TurnDone():
                self._add_pieces(self._calls.finish())
                self.done = event

    def _add_text(self, event: Text) -> None:
        if self._form.tool_names:
            self._add_pieces(self._calls.add(event.content_delta))
        else:
            self._content.append(event.content_delta)
        self._reasoning.append(event.reasoning_delta)
        self._logprobs += event.logprobs
        if self._form.token_ids:
            self._token_ids.extend(event.token_ids)

    def _add_pieces(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            match piece:
                case Content(text):
                    self._content.append(text)
                case CallBegun(_, call_id, name):
                    function = {"name": name, "arguments": ""}
                    self._tool_calls.append({"id": call_id, "type": "function", "function": function})
                case _:
                    self._tool_calls[piece.index]["function"]["arguments"] += piece.text

    @property
    def content(self) -> str:
        """The text so far, without a chain of thought and calls of tools."""
        return "".join(self._content)

    def choice(self, sample_rate: int) -> Json:
        """Return the choice. `sample_rate` (Hz) is for a file whose speech never started."""
        form = self._form
        content = self.content
        is_null = (form.speech and not form.text_in_content) or (bool(self._tool_calls) and not content)
        message: Json = {"role": "assistant", "content": None if is_null else content, "refusal": None}
        if any(self._reasoning):
            message["reasoning_content"] = "".join(self._reasoning)
        if self._tool_calls:
            message["tool_calls"] = self._tool_calls
        if form.speech:
            message["audio"] = self._audio(content, sample_rate)
        logprobs = logprobs_object(self._logprobs) if form.logprobs else None
        choice: Json = {"index": self._index, "message": message, "logprobs": logprobs}
        choice |= ending(self.done, calls=len(self._tool_calls))
        if form.token_ids:
            choice["token_ids"] = self._token_ids
        return choice

    def _audio(self, transcript: str, sample_rate: int) -> Json:
        if self._encoder is None:
            self._encoder = encoder_for(self._form.audio_format, sample_rate, streamed=False)
        self._data += self._encoder.finish()
        audio: Json = {
            "id": self._form.audio_id,
            "data": base64.b64encode(self._data).decode(),
            "transcript": transcript,
            **self._until().fields,
        }
        if self._form.token_ids:
            audio["codes"] = self._codes.tolist()
            audio["codebooks"] = self._codebooks
        return audio

    def close(self) -> None:
        if self._encoder is not None:
            self._encoder.close()


def whole_completion(form: CompletionForm, choices: Sequence[WholeChoice], sample_rate: int) -> dict[str, Any]:
    """Return the completion of all choices; `sample_rate` as for WholeChoice.choice."""
    ends = [choice.done for choice in choices]
    usage = UsageTally(len(choices)).add_all(done.usage for done in ends)
    completion: Json = {
        "id": form.id,
        "object": "chat.completion",
        "created": form.created_unix_s,
        "model": form.model,
        "choices": [choice.choice(sample_rate) for choice in choices],
        "usage": usage_object(usage),
        **antiphon_fields(*ends),
    }
    if form.token_ids:
        completion["prompt_token_ids"] = choices[0].prompt_token_ids
    return completion
