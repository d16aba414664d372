"""One session of OpenAI's Realtime API over a WebSocket."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Send

from services.common.errors import INTERNAL, AntiphonError, BadInput, Fault
from services.gateway.http.idle_timer import IdleTimer
from services.gateway.limits import RealtimeLimits
from services.gateway.realtime.audio.formats import AudioFormat, AudioReader
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.events import Event
from services.gateway.realtime.openai import beta, schema
from services.gateway.realtime.openai.items import item_from, pcm_from
from services.gateway.realtime.openai.options import (
    changed,
    changed_input_format,
    changed_turn_detection,
    check_model,
    merged_settings,
    session_object,
)
from services.gateway.realtime.openai.write import EventWriter, error_event, usage_object
from services.gateway.realtime.response import ResponseOptions
from services.gateway.realtime.session import Session
from services.gateway.realtime.session_end import SessionEnd
from services.gateway.realtime.sessions import OpenSession

# Reason → the WebSocket's close code and what the client reads beside it.
CLOSES = {
    SessionEnd.IDLE: (1001, "idle_timeout"),
    SessionEnd.EXPIRED: (1001, "session_expired"),
    SessionEnd.DRAINED: (1012, "server_restart"),
    SessionEnd.SLOW_CLIENT: (1008, "slow_client"),
    SessionEnd.REVOKED: (1008, "revoked_api_key"),
    SessionEnd.TAKEN_OVER: (1001, "session_taken_over"),
    SessionEnd.FAULT: (1011, "internal_error"),
}
_LAST_WORDS = {
    SessionEnd.IDLE: "The session was idle for too long.",
    SessionEnd.EXPIRED: "The session has reached its longest time. Open another one.",
    SessionEnd.TAKEN_OVER: "The session goes on with another connection.",
}
# "root" is the API's word for the conversation's start.
_ROOT = "root"
# Larger events are parsed in a thread, so that the event loop goes on.
_SMALL_CHARS = 1 << 16

logger = logging.getLogger(__name__)


class RealtimeConnection:
    """Reads client events one after another, and writes what the session tells.

    `end_unread(code, reason)` closes a connection whose client does not read. `is_beta`: the client speaks the API as
    it was in its beta.
    """

    def __init__(
        self,
        receive: Receive,
        send: Send,
        limits: RealtimeLimits,
        end_unread: Callable[[int, str], None],
        *,
        is_beta: bool = False,
    ) -> None:
        self._receive = receive
        self._to_client = send
        self._limits = limits
        self._end_unread = end_unread
        self._is_beta = is_beta
        self._sending = asyncio.Lock()
        self._is_over = False
        self._reader = AudioReader(AudioFormat.PCM)
        self._writer = EventWriter()
        self._session: Session
        self._opened: OpenSession

    async def emit(self, event: Event) -> None:
        """Send a session's event. Where the client does not take it in time, end the session; then send nothing."""
        await self._send(*self._writer.written(event))

    async def configure(self, session: Session, given: schema.SessionOptions) -> None:
        """Put what the client gave in the place of what the session has. Raise what it can't be."""
        detection = changed_turn_detection(session.turn_detection, given)
        await session.set_options(await _changed(session.options, given), detection)
        self._read_as(changed_input_format(self._reader.format, given))
        session.settings = merged_settings(session.settings, given)
        self._opened.settings_changed()

    async def begin(self, opened: OpenSession, *given: schema.SessionOptions) -> None:
        """Take the session, with what was given to begin it."""
        self._session, self._opened = opened.session, opened
        for options in given:
            await self.configure(self._session, options)

    async def run(self, subprotocol: str | None) -> None:
        """Serve the session to its end."""
        session = self._session
        await self._receive()  # websocket.connect
        await self._to_client({"type": "websocket.accept", "subprotocol": subprotocol})
        loop = asyncio.get_running_loop()
        idle = IdleTimer(self._limits.idle_timeout_s, self._on_idle)
        expiry = loop.call_later(session.expires_unix_s - time.time(), session.end, SessionEnd.EXPIRED)
        reading = asyncio.create_task(self._read(idle), name=f"read {session.id}")
        try:
            await asyncio.wait((reading, session.ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.close()
            expiry.cancel()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await session.close()
            await self._opened.keep()
        if session.ended.done():
            await self._close(session.ended.result())

    async def _read(self, idle: IdleTimer) -> None:
        session = self._session
        try:
            await self._send({"type": "session.created", "session": self._shown(session)})
            if self._is_beta:
                await self._send(beta.conversation_created(session.conversation.id))
            while (message := await self._receive())["type"] != "websocket.disconnect":
                idle.touch()
                await self._handle(message.get("text"))
                idle.touch()
        except Exception:
            logger.exception("session %s failed", session.id)
            session.end(SessionEnd.FAULT)

    async def _handle(self, text: str | None) -> None:
        """Do what one client event says. What is wrong with it the client is told, and the session goes on."""
        event_id: str | None = None
        try:
            if text is None:
                raise BadInput("The event is binary. Send a JSON object as text.", code="invalid_json")
            raw = await self._parsed(text)
            if isinstance(given := raw.get("event_id"), str):
                event_id = given[:512]
            await self._do(schema.parse_event(beta.event_from(raw) if self._is_beta else raw))
        except AntiphonError as error:
            await self._send(error_event(error, event_id))

    async def _parsed(self, text: str) -> dict[str, Any]:
        if len(text) <= _SMALL_CHARS:
            return schema.parse_json(text, self._limits.max_text_bytes)
        return await asyncio.to_thread(schema.parse_json, text, self._limits.max_text_bytes)

    async def _do(self, event: schema.ClientEvent) -> None:
        session = self._session
        match event:
            case schema.AudioAppend():
                await session.append_audio(
                    await pcm_from(event.audio, "audio", self._limits.max_media_bytes, self._reader)
                )
            case schema.AudioCommit():
                await session.commit_audio()
            case schema.AudioClear():
                await session.clear_audio()
            case schema.SessionUpdate():
                check_model(event.session, session)
                await self.configure(session, event.session)
                await self._send({"type": "session.updated", "session": self._shown(session)})
            case schema.ItemCreate():
                item = await item_from(event.item, "item", self._limits.max_media_bytes, self._reader.format)
                await session.items.create(item, "" if event.previous_item_id == _ROOT else event.previous_item_id)
            case schema.ItemRetrieve():
                await session.items.retrieve(event.item_id)
            case schema.ItemDelete():
                await session.items.delete(event.item_id)
            case schema.ItemTruncate():
                await session.items.truncate(event.item_id, event.content_index, event.audio_end_ms)
            case schema.ResponseCreate():
                await self._respond(event.response or schema.ResponseOptionsGiven())
            case schema.ResponseCancel():
                await session.cancel_response(event.response_id)

    def _shown(self, session: Session) -> dict[str, Any]:
        return {**session_object(session, self._reader.format), "antiphon_usage": usage_object(session.usage)}

    def _read_as(self, audio_format: AudioFormat) -> None:
        if audio_format is not self._reader.format:
            self._reader, self._writer.input_format = AudioReader(audio_format), audio_format

    async def _respond(self, given: schema.ResponseOptionsGiven) -> None:
        session, items = self._session, None
        if given.input is not None:
            items = [await self._input(one, f"response.input[{i}]") for i, one in enumerate(given.input)]
        await session.create_response(
            await _changed(session.options, given),
            in_conversation=given.conversation != "none",
            items=items,
            metadata=given.metadata,
        )

    async def _input(self, given: schema.AnyItem | schema.ItemReference, path: str) -> Item:
        if isinstance(given, schema.ItemReference):
            return self._session.conversation.get(given.id, "invalid_item_reference")
        return await item_from(given, path, self._limits.max_media_bytes, self._reader.format)

    # To the client

    async def _send(self, *events: dict[str, Any]) -> None:
        for event in beta.events_of(events) if self._is_beta else events:
            event["event_id"] = f"event_{secrets.token_hex(12)}"
            text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
            async with self._sending:
                if self._is_over:
                    return
                try:
                    async with asyncio.timeout(self._limits.send_timeout_s):
                        await self._to_client({"type": "websocket.send", "text": text})
                except TimeoutError:
                    self._is_over = True
                    self._session.end(SessionEnd.SLOW_CLIENT)
                except OSError:  # the client has left
                    self._is_over = True

    def _on_idle(self) -> None:
        if not self._session.is_responding:
            self._session.end(SessionEnd.IDLE)

    async def _close(self, reason: SessionEnd) -> None:
        if reason is SessionEnd.FAULT:
            await self._send(error_event(Fault(INTERNAL), None))
        elif reason in _LAST_WORDS:
            await self._send(error_event(BadInput(_LAST_WORDS[reason], code=CLOSES[reason][1]), None))
        self._is_over = True
        code, text = CLOSES[reason]
        if reason is SessionEnd.SLOW_CLIENT:
            self._end_unread(code, text)
            return
        try:
            async with asyncio.timeout(self._limits.send_timeout_s):
                await self._to_client({"type": "websocket.close", "code": code, "reason": text})
        except TimeoutError:
            self._end_unread(code, text)
        except OSError:
            pass


async def _changed(
    options: ResponseOptions, given: schema.SessionOptions | schema.ResponseOptionsGiven
) -> ResponseOptions:
    if given.tools:
        return await asyncio.to_thread(changed, options, given)  # their schemas are checked
    return changed(options, given)
