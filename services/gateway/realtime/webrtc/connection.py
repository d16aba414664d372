"""One session of OpenAI's Realtime API over WebRTC: its events are those of the WebSocket, its audio is in tracks."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from services.common.errors import AntiphonError
from services.common.http.errors import bad_input_from
from services.gateway.http.chat.parts import Strict
from services.gateway.limits import RealtimeLimits
from services.gateway.realtime.audio.formats import AudioFormat, AudioReader
from services.gateway.realtime.conversation import ItemStatus, SpeechContent
from services.gateway.realtime.events import AnswerHeld, AudioDelta, Event, OutputDone, ResponseDone, SpeechStarted
from services.gateway.realtime.openai.connection import Json, RealtimeConnection
from services.gateway.realtime.openai.write import error_event
from services.gateway.realtime.session_end import SessionEnd
from services.gateway.realtime.webrtc.call import Call
from services.gateway.realtime.webrtc.speaker import CutSpeech, What

CLEAR = "output_audio_buffer.clear"
LEAD_S = 2.0
"""How far an answer may be ahead of what is played, where the operator allows more: it waits here."""


class OutputAudioClear(Strict):
    type: Literal["output_audio_buffer.clear"]
    event_id: Annotated[str, Field(max_length=512)] | None = None


class CallConnection(RealtimeConnection):
    """The gateway plays the answers here, so that it knows what was heard: it truncates what it cuts, as other clients
    do themselves."""

    def __init__(self, call: Call, limits: RealtimeLimits) -> None:
        super().__init__(call.receive, call.send, limits, lambda code, reason: call.hang_up())
        self._call = call
        self._microphone = AudioReader(AudioFormat.PCM_48K)
        self._cut: list[CutSpeech] = []
        self._is_deaf = False

    async def run(self, subprotocol: str | None) -> None:
        telling = asyncio.create_task(self._tell(), name=f"speaker {self.session.id}")
        try:
            await super().run(subprotocol)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def emit(self, event: Event) -> None:
        speaker = self._call.speaker
        match event:
            case AudioDelta(response, item, pcm):
                await speaker.play(response, item, bytes(pcm))
                return
            case AnswerHeld(is_held):
                self.session.stand_still(speaker.hold(is_held=is_held))
                return
            case SpeechStarted() if self._interrupts:
                self._clear()
                await super().emit(event)
                await self._send_told()
                return
            case OutputDone(response, item) if not isinstance(item.contents[0], SpeechContent):
                pass
            case OutputDone(response) | ResponseDone(response):
                speaker.end(response)
            case _:
                pass
        await super().emit(event)

    async def hear(self, data: bytes) -> None:
        """Append samples of the client's track: 48 kHz, mono, 16 bits signed, little-endian."""
        await self._truncate()
        try:
            await self.session.append_audio(self._microphone.read(data))
            self._is_deaf = False
        except AntiphonError as error:
            if not self._is_deaf:  # the track goes on: the client is told once
                await self.send(error_event(error, None))
            self._is_deaf = True
        await self._truncate()

    async def do(self, raw: Json) -> None:
        await self._truncate()  # an answer may have ended since, and the next one reads it
        if raw.get("type") == CLEAR:
            try:
                OutputAudioClear.model_validate(raw)
            except ValidationError as error:
                raise bad_input_from(error, raw) from None
            self._clear()
            await self._send_told()
        else:
            await super().do(raw)
        await self._truncate()

    async def take_leave(self, reason: SessionEnd) -> None:
        if reason in (SessionEnd.DRAINED, SessionEnd.REQUESTED):
            await self._call.speaker.wait_silent(2 * LEAD_S)
        await super().take_leave(reason)

    @property
    def _interrupts(self) -> bool:
        detection = self.session.turn_detection
        return detection is not None and detection.interrupt_response

    def _clear(self) -> None:
        """Be silent at once."""
        self._cut += self._call.speaker.clear()

    async def _truncate(self) -> None:
        """Have the conversation keep of each answer what was sent of it, once it is over."""
        cut, self._cut = self._cut, []
        for each in cut:
            item, content = each.item, each.item.contents[0]
            if item.status is ItemStatus.IN_PROGRESS:
                self._cut.append(each)
            elif isinstance(content, SpeechContent) and item.id in self.session.conversation:
                sent_ms = min(each.sent_ms, content.spoken.sent_ms)
                await self.session.items.truncate(item.id, 0, sent_ms)

    async def _tell(self) -> None:
        told = self._call.speaker.told
        while True:
            await self._send(*await told.get())

    async def _send_told(self) -> None:
        """Send what has happened to the speech, before what comes of it."""
        told = self._call.speaker.told
        while not told.empty():
            await self._send(*told.get_nowait())

    async def _send(self, what: What, response_id: str) -> None:
        await self.send({"type": f"output_audio_buffer.{what}", "response_id": response_id})
