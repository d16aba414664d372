"""A turn's events as chat completion chunks, or as one chat completion. Pure: no clock, no socket.

A stream: `{role, content: ""}` → for text, `{content}` and `{reasoning_content}`; for speech, `{audio: {id,
transcript}}` → transcript and data → `{audio: {expires_at}}` → `{}` with finish_reason → usage. Clients concatenate
strings and add numbers, so role, id, expires_at and `codebooks` are sent once. `data` is headerless 16-bit PCM in every
format, because clients concatenate it. The server does not store speech, so `expires_at` is when it ended.
With return_token_ids, `prompt_token_ids` and `token_ids` are where vLLM puts them. `audio.codes` holds the codec codes,
row-major [frames, codebooks], as a flat list that clients can concatenate.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from antiphon.v1 import gateway_pb2, talker_pb2, thinker_pb2
from services.gateway.http.chat.audio import PcmChunker, wav_file
from services.gateway.http.chat.usage import finish_reason, usage_object
from services.gateway.turn.events import TurnEvent

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CompletionForm:
    """The form of the completion that the client asked for."""

    id: str
    created_unix_s: int
    model: str
    speech: bool
    audio_format: str
    token_ids: bool
    usage_chunk: bool

    @property
    def audio_id(self) -> str:
        return "audio_" + self.id.removeprefix("chatcmpl-")


class CompletionChunks:
    """Turns events into chunks."""

    def __init__(self, form: CompletionForm, now_unix_s: Callable[[], float]) -> None:
        self._form = form
        self._now_unix_s = now_unix_s
        self._pcm = PcmChunker()

    def chunks(self, event: TurnEvent) -> list[Json]:
        match event:
            case gateway_pb2.ConverseStarted():
                return self._started(event)
            case thinker_pb2.GeneratedText():
                return self._text(event)
            case talker_pb2.SpeakStarted():
                return [self._delta({"audio": {"codebooks": event.codebooks}})] if self._form.token_ids else []
            case talker_pb2.Speech():
                return self._speech(event)
            case gateway_pb2.ConverseDone():
                return self._done(event)

    def _started(self, event: gateway_pb2.ConverseStarted) -> list[Json]:
        first = self._delta({"role": "assistant", "content": ""})
        if self._form.token_ids:
            first["prompt_token_ids"] = list(event.prompt_token_ids)
        if not self._form.speech:
            return [first]
        return [first, self._delta({"audio": {"id": self._form.audio_id, "transcript": ""}})]

    def _text(self, event: thinker_pb2.GeneratedText) -> list[Json]:
        delta: Json = {}
        if event.reasoning_delta:
            delta["reasoning_content"] = event.reasoning_delta
        if event.content_delta:
            delta.update(
                {"audio": {"transcript": event.content_delta}}
                if self._form.speech
                else {"content": event.content_delta}
            )
        if not delta and not self._form.token_ids:
            return []  # some tokens complete no character
        chunk = self._delta(delta)
        if self._form.token_ids:
            chunk["choices"][0]["token_ids"] = list(event.token_ids)
        return [chunk]

    def _speech(self, event: talker_pb2.Speech) -> list[Json]:
        audio: Json = {}
        data = self._pcm.add(event.pcm)
        if data:
            audio["data"] = data
        if self._form.token_ids and event.codes:
            audio["codes"] = list(event.codes)
        return [self._delta({"audio": audio})] if audio else []

    def _done(self, event: gateway_pb2.ConverseDone) -> list[Json]:
        chunks: list[Json] = []
        if self._form.speech:
            rest = self._pcm.finish()
            if rest:
                chunks.append(self._delta({"audio": {"data": rest}}))
            chunks.append(self._delta({"audio": {"expires_at": int(self._now_unix_s())}}))
        chunks.append(self._chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish_reason(event)}]))
        if self._form.usage_chunk:
            chunks.append({**self._chunk([]), "usage": usage_object(event.usage)})
        return chunks

    def _delta(self, delta: Json) -> Json:
        return self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def _chunk(self, choices: list[Json]) -> Json:
        chunk: Json = {
            "id": self._form.id,
            "object": "chat.completion.chunk",
            "created": self._form.created_unix_s,
            "model": self._form.model,
            "choices": choices,
        }
        if self._form.usage_chunk:
            chunk["usage"] = None
        return chunk


class WholeCompletion:
    """Turns events into one completion."""

    def __init__(self, form: CompletionForm, now_unix_s: Callable[[], float]) -> None:
        self._form = form
        self._now_unix_s = now_unix_s
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._prompt_token_ids: list[int] = []
        self._token_ids: list[int] = []
        self._pcm = bytearray()
        self._codes: list[int] = []
        self._speech = talker_pb2.SpeakStarted()
        self._done = gateway_pb2.ConverseDone()

    def add(self, event: TurnEvent) -> None:
        match event:
            case gateway_pb2.ConverseStarted():
                self._prompt_token_ids.extend(event.prompt_token_ids)
            case thinker_pb2.GeneratedText():
                self._content.append(event.content_delta)
                self._reasoning.append(event.reasoning_delta)
                self._token_ids.extend(event.token_ids)
            case talker_pb2.SpeakStarted():
                self._speech = event
            case talker_pb2.Speech():
                self._pcm += event.pcm
                self._codes.extend(event.codes)
            case gateway_pb2.ConverseDone():
                self._done = event

    def completion(self, sample_rate: int) -> Json:
        """Return the completion. `sample_rate` (Hz) is for a WAV whose speech never started."""
        form = self._form
        content = "".join(self._content)
        message: Json = {"role": "assistant", "content": None if form.speech else content, "refusal": None}
        if any(self._reasoning):
            message["reasoning_content"] = "".join(self._reasoning)
        if form.speech:
            message["audio"] = self._audio(content, self._speech.sample_rate or sample_rate)
        choice: Json = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(self._done)}
        completion: Json = {
            "id": form.id,
            "object": "chat.completion",
            "created": form.created_unix_s,
            "model": form.model,
            "choices": [choice],
            "usage": usage_object(self._done.usage),
        }
        if form.token_ids:
            choice["token_ids"] = self._token_ids
            completion["prompt_token_ids"] = self._prompt_token_ids
        return completion

    def _audio(self, transcript: str, sample_rate: int) -> Json:
        data = wav_file(bytes(self._pcm), sample_rate) if self._form.audio_format == "wav" else bytes(self._pcm)
        audio: Json = {
            "id": self._form.audio_id,
            "data": base64.b64encode(data).decode(),
            "transcript": transcript,
            "expires_at": int(self._now_unix_s()),
        }
        if self._form.token_ids:
            audio["codes"] = self._codes
            audio["codebooks"] = self._speech.codebooks
        return audio
