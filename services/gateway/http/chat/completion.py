"""A turn's events as chat completion chunks. Pure: no clock, no socket.

A stream: `{role, content: ""}` → for text, `{content}` and `{reasoning_content}`; for speech, `{audio: {id,
transcript}}` → transcript and data → `{audio: {expires_at}}` → `{}` with finish_reason → usage. Clients concatenate
strings and add numbers, so role, id, expires_at and `codebooks` are sent once. Clients concatenate `data` too: it is
headerless 16-bit PCM in `wav` and `pcm16`, and one file in the other formats. `expires_at` is until when the
answer may be sent back by its id alone, and when it ended where it may not. In DashScope's compatible mode the text of
speech is in `{content}`.
With return_token_ids, `prompt_token_ids` and `token_ids` are where vLLM puts them. `audio.codes` holds the codec codes,
row-major [frames, codebooks], as a flat list that clients can concatenate.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from services.gateway.audio.encoders import Encoder, encoder_for
from services.gateway.audio.formats import CODECS
from services.gateway.http.chat.base64_chunks import GROUP_BYTES, PCM_GROUP_BYTES, Base64Chunker
from services.gateway.http.chat.logprobs import logprobs_object
from services.gateway.http.chat.tools.parser import CallArguments, CallBegun, Content, Piece, ToolCallParser
from services.gateway.http.chat.usage import UsageTally, antiphon_fields, ending, usage_object
from services.gateway.http.streams import sse
from services.gateway.kept.until import KeptUntil
from services.gateway.turn.events import Speech, SpeechStarted, Text, TurnDone, TurnEvent, TurnStarted

Json = dict[str, Any]
# No part of a string is encoded like this: its quotes would be escaped.
_HOLE: Json = {"\0": None}
_ENCODED_HOLE = b'{"\\u0000":null}'


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
    logprobs: bool = False
    # Tools that the answer may call.
    tool_names: frozenset[str] = frozenset()
    choices: int = 1
    # The text of a spoken answer is its `content`, as DashScope has it, and not (in a stream) its audio's transcript.
    text_in_content: bool = False
    # The answer is a text, without a message around it, as DashScope's text-generation may have it.
    text_alone: bool = False
    # Events of a stream have what is new, and not all so far.
    incremental: bool = True

    @property
    def audio_id(self) -> str:
        return "audio_" + self.id.removeprefix("chatcmpl-").removeprefix("req_")

    @property
    def is_encoded(self) -> bool:
        """Whether its speech goes through a codec, which takes time."""
        return self.speech and self.audio_format in CODECS


def new_call_id() -> str:
    return "call_" + secrets.token_hex(12)


class CompletionChunks:
    """Turns the events of one choice into chunks, encoded as server-sent events. `close` it at the end.

    Text and speech come often and differ in their delta alone: the rest of their chunk is encoded once. Answers with
    tools or log probabilities are encoded piece by piece.
    """

    def __init__(
        self,
        form: CompletionForm,
        until: Callable[[], KeptUntil],
        *,
        index: int = 0,
        tally: UsageTally | None = None,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        """`until`: until when a spoken answer is kept; asked at its end. `tally`: that of all choices; None =
        there is only this one."""
        self._form = form
        self._index = index
        self._tally = tally or UsageTally(1)
        self._calls = ToolCallParser(form.tool_names, new_id)
        self._text_ended = False
        self._is_transcript = form.speech and not form.text_in_content
        self._in_pieces = bool(form.tool_names) or form.logprobs
        self._until = until
        # Of a spoken answer: whether its id was told, and what it said so far.
        self.has_begun = False
        self._said: list[str] = []
        self._encoder: Encoder | None = None
        self._base64 = Base64Chunker(GROUP_BYTES if form.is_encoded else PCM_GROUP_BYTES)
        self._plain = self._with_ids = _Template.of(self._delta(_HOLE))
        self._data = self._plain.narrowed(b'{"audio":{"data":"', b'"}}')
        if form.token_ids:
            with_ids = self._delta(_HOLE)
            with_ids["choices"][0]["token_ids"] = _HOLE
            self._with_ids = _Template.of(with_ids)

    def encoded(self, event: TurnEvent) -> bytes:
        """Return the event's chunks, each as `data: <JSON>` and an empty line; b"" where it has none."""
        match event:
            case Speech():
                return self._speech(event)
            case Text():
                return self._text(event)
            case TurnStarted():
                return sse(*self._started(event))
            case SpeechStarted():
                self._encoder = encoder_for(self._form.audio_format, event.sample_rate, streamed=True)
                return sse(self._delta({"audio": {"codebooks": event.codebooks}})) if self._form.token_ids else b""
            case TurnDone():
                return sse(*self._done(event))

    @property
    def transcript(self) -> str:
        """What a spoken answer said so far."""
        return "".join(self._said)

    def end_text(self) -> bytes:
        """Return the chunks of the text that was held back: it might have begun a call of a tool."""
        return sse(*self._rest_of_text())

    def _rest_of_text(self) -> list[Json]:
        rest = [] if self._text_ended else self._calls.finish()
        self._text_ended = True
        return [self._delta(delta) for delta in self._deltas(rest)]

    def close(self) -> None:
        if self._encoder is not None:
            self._encoder.close()

    def _started(self, event: TurnStarted) -> list[Json]:
        first = self._delta({"role": "assistant", "content": ""})
        if self._form.token_ids:
            first["prompt_token_ids"] = list(event.prompt_token_ids)
        if not self._form.speech:
            return [first]
        self.has_begun = True
        audio = {"id": self._form.audio_id, **({} if self._form.text_in_content else {"transcript": ""})}
        return [first, self._delta({"audio": audio})]

    def _text(self, event: Text) -> bytes:
        if self._in_pieces:
            return sse(*self._text_in_pieces(event))
        fields: list[str] = []
        if event.reasoning_delta:
            fields.append(f'"reasoning_content":{encode_basestring(event.reasoning_delta)}')
        if event.content_delta:
            content = encode_basestring(event.content_delta)
            if self._form.speech:
                self._said.append(event.content_delta)
            fields.append(f'"audio":{{"transcript":{content}}}' if self._is_transcript else f'"content":{content}')
        delta = f"{{{','.join(fields)}}}".encode()
        if self._form.token_ids:
            return self._with_ids.filled(delta, _numbers(event.token_ids))
        return self._plain.filled(delta) if fields else b""  # some tokens complete no character

    def _text_in_pieces(self, event: Text) -> list[Json]:
        """Return a chunk for each piece. Token ids and log probabilities are in the first one."""
        deltas: list[Json] = [{"reasoning_content": event.reasoning_delta}] if event.reasoning_delta else []
        deltas += self._deltas(self._pieces(event.content_delta))
        if not deltas and (self._form.token_ids or event.logprobs):
            deltas = [{}]
        chunks = [self._delta(delta) for delta in deltas]
        if chunks and self._form.token_ids:
            chunks[0]["choices"][0]["token_ids"] = list(event.token_ids)
        if chunks and event.logprobs:
            chunks[0]["choices"][0]["logprobs"] = logprobs_object(event.logprobs)
        return chunks

    def _pieces(self, text: str) -> Sequence[Piece]:
        if self._form.tool_names:
            return self._calls.add(text)
        return [Content(text)] if text else []

    def _deltas(self, pieces: Iterable[Piece]) -> list[Json]:
        return [self._delta_of(piece) for piece in pieces]

    def _delta_of(self, piece: Piece) -> Json:
        match piece:
            case Content(text):
                if self._form.speech:
                    self._said.append(text)
                return {"audio": {"transcript": text}} if self._is_transcript else {"content": text}
            case CallBegun(index, call_id, name):
                function = {"name": name, "arguments": ""}
                return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
            case CallArguments(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}

    def _speech(self, event: Speech) -> bytes:
        data = self._base64.add(self._encoder.add(event.pcm)) if self._encoder is not None else b""
        if not (self._form.token_ids and event.codes):
            return self._data.filled(data) if data else b""
        audio = b'"data":"%b",' % data if data else b""
        return self._plain.filled(b'{"audio":{%b"codes":%b}}' % (audio, _numbers(event.codes)))

    def _done(self, event: TurnDone) -> list[Json]:
        chunks = self._rest_of_text()
        if self._form.speech:
            rest = self._base64.add(self._encoder.finish()) if self._encoder is not None else b""
            if rest := rest + self._base64.finish():
                chunks.append(self._delta({"audio": {"data": rest.decode()}}))
            chunks.append(self._delta({"audio": {**self._until().fields}}))
        end = ending(event, calls=self._calls.calls)
        last = self._chunk([{"index": self._index, "delta": {}, "logprobs": None, **end}])
        chunks.append({**last, **antiphon_fields(event)})
        usage = self._tally.add(event.usage)
        if self._form.usage_chunk and usage is not None:
            chunks.append({**self._chunk([]), "usage": usage_object(usage)})
        return chunks

    def _delta(self, delta: Json) -> Json:
        return self._chunk([{"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None}])

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


class _Template:
    """An encoded chunk with holes: its values that are _HOLE."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts

    @classmethod
    def of(cls, chunk: Json) -> _Template:
        return cls(sse(chunk).split(_ENCODED_HOLE))

    def narrowed(self, before: bytes, after: bytes) -> _Template:
        """Return the template whose only hole has these bytes around it."""
        return _Template((self._parts[0] + before, after + self._parts[1]))

    def filled(self, *values: bytes) -> bytes:
        """Return the chunk with encoded JSON `values` in its holes."""
        parts = self._parts
        if len(values) == 1:
            return b"".join((parts[0], values[0], parts[1]))
        return b"".join((parts[0], values[0], parts[1], values[1], parts[2]))


def _numbers(numbers: Iterable[int]) -> bytes:
    return f"[{','.join(map(str, numbers))}]".encode()
