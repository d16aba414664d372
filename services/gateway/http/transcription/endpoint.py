"""POST /v1/audio/transcriptions, /v1/audio/translations and /v1/audio/captions: a turn with one recording, whose answer
is a text."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from services.common.errors import AntiphonError, BadInput
from services.common.http.respond import send_bytes, send_error, send_json
from services.gateway.http.form import read_form
from services.gateway.http.request import memory_of, timeout_of, trace_of
from services.gateway.http.respond import while_connected
from services.gateway.http.streams import name_field, rename_messages, stream_turns
from services.gateway.http.transcription.fields import (
    AudioFields,
    CaptionFields,
    SpeechFields,
    TranscriptionFields,
    TranslationFields,
    fields_from,
)
from services.gateway.http.transcription.languages import LYRICS_PROMPT, transcription_prompt, translation_prompt
from services.gateway.http.transcription.pieces import PieceByPiece, stream_parts
from services.gateway.http.transcription.write import Transcript, TranscriptEvents
from services.gateway.limits import RequestLimits
from services.gateway.memory import GatewayMemory, RequestMemory
from services.gateway.recordings.cutting import Recordings
from services.gateway.turn.admission import Admission
from services.gateway.turn.conversation import AudioPart, InlineSource, Message, TextPart
from services.gateway.turn.intent import FieldNames, Intent, Principal, Sampling
from services.gateway.turn.model import ModelKind
from services.gateway.turn.turn import Turn

FILE = "file"
# Also of subtitles, as OpenAI sends them.
_PLAIN = "text/plain; charset=utf-8"
_NAMES = FieldNames(voice="voice", modalities="model", messages=FILE)


@dataclass(frozen=True, slots=True)
class _Asked:
    intent: Intent
    fields: AudioFields


class Transcriptions:
    """An endpoint as an ASGI application. `fields` says which one."""

    def __init__(
        self,
        fields: type[AudioFields],
        admission: Admission,
        limits: RequestLimits,
        memory: GatewayMemory,
        recordings: Recordings,
    ) -> None:
        self._fields = fields
        self._admission = admission
        self._limits = limits
        self._memory = memory
        self._pieces = PieceByPiece(admission, recordings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal = scope["state"]["principal"]
        with trace_of(scope):
            async with memory_of(scope, self._memory) as memory:
                asked = await self._read(principal, scope, receive, memory)
                name = f"transcription {asked.intent.request_id}"
                await while_connected(receive, self._answer(principal, asked, send), name)

    async def _read(self, principal: Principal, scope: Scope, receive: Receive, memory: RequestMemory) -> _Asked:
        arrived_s, timeout_s = time.monotonic(), timeout_of(scope)
        form = await read_form(scope, receive, self._limits, memory, file_field=FILE)
        fields = fields_from(self._fields, form.fields)
        if form.file is None:
            raise BadInput(f"Missing required parameter: '{FILE}'.", param=FILE, code="missing_required_parameter")
        if not form.file:
            raise BadInput(f"Invalid '{FILE}': the file is empty.", param=FILE, code="empty_media")
        task = _task(fields)
        parts = (AudioPart(FILE, InlineSource(0)), *([TextPart("prompt", task)] if task else []))
        messages = (Message("user", parts),)
        intent = Intent(
            names=_NAMES,
            arrived_s=arrived_s,
            messages=messages,
            inline=await memory.keep(messages, [form.file]),
            model=await self._captioner(principal, fields) if isinstance(fields, CaptionFields) else fields.model,
            kind="transcription",
            sampling=Sampling(
                temperature=fields.temperature, top_p=fields.top_p, seed=fields.seed, max_tokens=fields.max_tokens
            ),
            timeout_s=timeout_s,
            request_id=str(scope["state"]["request_id"]),
        )
        return _Asked(intent, fields)

    async def _captioner(self, principal: Principal, fields: CaptionFields) -> str:
        """Return the name of the model. Raise BadInput where it is no captioner, and as Admission.find."""
        name = fields.model
        if name is None:
            return (await self._admission.only_of_kind(principal, ModelKind.CAPTIONER)).name
        model = await self._admission.find(principal, name)
        if model.kind is not ModelKind.CAPTIONER:
            raise BadInput(
                f"Invalid 'model': '{name[:200]}' is no captioner. Send the name of one, or leave it out.",
                param="model",
            )
        return model.name

    async def _answer(self, principal: Principal, asked: _Asked, send: Send) -> None:
        if isinstance(asked.fields, SpeechFields) and asked.fields.chunking_strategy is not None:
            await self._answer_in_pieces(principal, asked, send)
            return
        async with self._admission.admit(principal, asked.intent) as turn:
            if asked.fields.stream:
                await stream_turns([turn], TranscriptEvents(_events_of(asked.fields)), send, self._limits.keep_alive_s)
            else:
                await _send_whole(turn, asked.fields, send)

    async def _answer_in_pieces(self, principal: Principal, asked: _Asked, send: Send) -> None:
        transcript, headers = Transcript(), dict[str, str]()
        piece_s = asked.fields.antiphon_piece_s if isinstance(asked.fields, SpeechFields) else None
        async with aclosing(self._pieces.transcribe(principal, asked.intent, transcript, headers, piece_s)) as parts:
            if asked.fields.stream:
                await stream_parts(parts, transcript, headers, send, self._limits.keep_alive_s)
                return
            try:
                async for _ in parts:
                    pass
            except AntiphonError as error:
                # A client that repeats it by itself pays once more for what was transcribed.
                await send_error(send, rename_messages(error, FILE), billed=bool(transcript.text), headers=headers)
                return
        await _send_transcript(transcript, asked.fields, send, headers)


async def _send_whole(turn: Turn, fields: AudioFields, send: Send) -> None:
    turn.answers_whole = True
    transcript = Transcript()
    try:
        async for event in turn.events:
            transcript.add(event)
    except AntiphonError as error:
        await send_error(send, name_field(error, turn), billed=turn.billed, headers=turn.account.headers)
        return
    await _send_transcript(transcript, fields, send, turn.account.headers)
    turn.sent_all()


async def _send_transcript(transcript: Transcript, fields: AudioFields, send: Send, headers: Mapping[str, str]) -> None:
    if fields.response_format == "text":
        await send_bytes(send, 200, transcript.text.encode(), _PLAIN, headers)
    elif isinstance(fields, SpeechFields) and fields.response_format in ("srt", "vtt"):
        await send_bytes(send, 200, transcript.subtitles(fields.response_format).encode(), _PLAIN, headers)
    elif isinstance(fields, SpeechFields) and fields.response_format == "verbose_json":
        task = "translate" if isinstance(fields, TranslationFields) else "transcribe"
        await send_json(send, 200, transcript.verbose(task, fields.language), headers)
    else:
        await send_json(send, 200, transcript.described(), headers)


def _events_of(fields: AudioFields) -> str:
    """Return what the types of a stream's events begin with."""
    return "caption" if isinstance(fields, CaptionFields) else "transcript"


def _task(fields: AudioFields) -> str:
    """Return what the model is told to do; "" = nothing, as for a captioner."""
    match fields:
        case TranslationFields():
            return translation_prompt(fields.language, fields.to_language, fields.prompt)
        case TranscriptionFields(antiphon_preset="lyrics"):
            return LYRICS_PROMPT
        case TranscriptionFields():
            return transcription_prompt(fields.language, fields.prompt)
        case _:
            return ""
