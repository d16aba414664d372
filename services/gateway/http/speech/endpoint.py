"""POST /v1/audio/speech: a turn whose answer is given, and only spoken."""

from __future__ import annotations

import time
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from services.gateway.audio.encoding import Encoding, encoder_bytes
from services.gateway.http.json_body import parse_json
from services.gateway.http.request import memory_of, timeout_of, trace_of
from services.gateway.http.respond import read_body, require_json, while_connected
from services.gateway.http.speech.schema import SpeechRequest
from services.gateway.http.speech.write import SpeechEvents, SpeechFile
from services.gateway.http.streams import stream_turns
from services.gateway.limits import RequestLimits
from services.gateway.memory import GatewayMemory, RequestMemory
from services.gateway.turn.admission import Admission
from services.gateway.turn.conversation import Message, TextPart
from services.gateway.turn.intent import FieldNames, Intent, Principal

_NAMES = FieldNames(voice="voice", modalities="model", messages="input")
# Twice as much as all of a request's characters take, escaped.
_MAX_BODY_BYTES = 256 * 1024
# The user's turn where there are no instructions: the talker has always read one before an answer.
_NO_INSTRUCTIONS = "Read the text aloud."


class AudioSpeech:
    """The endpoint as an ASGI application."""

    def __init__(self, admission: Admission, limits: RequestLimits, memory: GatewayMemory, encoding: Encoding) -> None:
        self._admission = admission
        self._limits = replace(limits, max_body_bytes=min(limits.max_body_bytes, _MAX_BODY_BYTES))
        self._memory = memory
        self._encoding = encoding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal = scope["state"]["principal"]
        with trace_of(scope):
            async with memory_of(scope, self._memory) as memory:
                asked, intent = await self._read(scope, receive, memory)
                await while_connected(
                    receive, self._answer(principal, asked, intent, memory, send), f"speech {intent.request_id}"
                )

    async def _read(self, scope: Scope, receive: Receive, memory: RequestMemory) -> tuple[SpeechRequest, Intent]:
        arrived_s = time.monotonic()
        require_json(scope)
        timeout_s = timeout_of(scope)
        asked = parse_json(await read_body(scope, receive, self._limits, memory), SpeechRequest)
        messages = (Message("user", (TextPart("instructions", asked.instructions or _NO_INSTRUCTIONS),)),)
        intent = Intent(
            names=_NAMES,
            arrived_s=arrived_s,
            messages=messages,
            inline=await memory.keep(messages, (), later_bytes=encoder_bytes(asked.audio_format)),
            model=asked.model,
            speech=asked.speech,
            said=asked.input,
            kind="speech",
            timeout_s=timeout_s,
            request_id=str(scope["state"]["request_id"]),
        )
        return asked, intent

    async def _answer(
        self, principal: Principal, asked: SpeechRequest, intent: Intent, memory: RequestMemory, send: Send
    ) -> None:
        form = SpeechEvents if asked.stream_format == "sse" else SpeechFile
        async with (
            self._encoding.room(asked.audio_format, memory, param="response_format"),
            self._admission.admit(principal, intent) as turn,
        ):
            spoken = form(asked.audio_format, asked.speed or 1.0, self._encoding)
            await stream_turns([turn], spoken, send, self._limits.keep_alive_s)
