"""One session of OpenAI's Realtime API over a WebSocket."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import Receive, Send

from services.common.errors import INTERNAL, AntiphonError, BadInput, Fault
from services.gateway.limits import RealtimeLimits
from services.gateway.realtime.audio.formats import AudioFormat, AudioReader
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.events import Event
from services.gateway.realtime.json_events import json_event
from services.gateway.realtime.openai import schema
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
from services.gateway.realtime.socket import CLOSES, LAST_WORDS, SessionSocket

Json = dict[str, Any]

# "root" is the API's word for the conversation's start.
_ROOT = "root"


class RealtimeConnection:
    """Reads client events one after another, and writes what the session tells.

    `end_unread(code, reason)` closes a connection whose client does not read. Dialects that are translated to this one
    and back change `do`, `shown` and what the first and the last events are.
    """

    input_format = AudioFormat.PCM
    """Of a client that has not said another one."""

    def __init__(
        self, receive: Receive, send: Send, limits: RealtimeLimits, end_unread: Callable[[int, str], None]
    ) -> None:
        self._socket = SessionSocket(receive, send, limits, end_unread)
        self._limits = limits
        self.max_media_bytes = limits.max_media_bytes
        self._reader = AudioReader(self.input_format)
        self._writer = EventWriter(self.input_format)
        self.session: Session
        self._opened: OpenSession

    async def emit(self, event: Event) -> None:
        """Send a session's event. Where the client does not take it in time, end the session; then send nothing."""
        await self.send(*self._writer.written(event))

    async def configure(self, session: Session, given: schema.SessionOptions) -> None:
        """Put what the client gave in the place of what the session has. Raise what it can't be."""
        detection = changed_turn_detection(session.turn_detection, given)
        await session.set_options(await _changed(session.options, given), detection)
        self._read_as(changed_input_format(self._reader.format, given))
        session.settings = merged_settings(session.settings, given)
        self._opened.settings_changed()

    async def begin(self, opened: OpenSession, *given: schema.SessionOptions) -> None:
        """Take the session, with what was given to begin it."""
        self.session, self._opened = opened.session, opened
        for options in given:
            await self.configure(self.session, options)

    async def run(self, subprotocol: str | None) -> None:
        """Serve the session to its end."""
        await self._socket.accept(subprotocol)
        end = await self._socket.serve(self._opened, self.greet, self._handle, self.hear)
        if end is not None:
            await self.take_leave(end)
            await self._socket.close(end)

    async def greet(self) -> None:
        """Send what comes first."""
        shown, uncommitted_ms = self._shown(), self.session.buffer.duration_ms
        if uncommitted_ms:
            shown["antiphon_uncommitted_ms"] = uncommitted_ms
        await self.send({"type": "session.created", "session": shown})

    async def _handle(self, text: str | None) -> None:
        """Do what one client event says. What is wrong with it the client is told, and the session goes on."""
        event_id: str | None = None
        try:
            raw = await json_event(text, self._limits.max_text_bytes)
            if isinstance(given := raw.get("event_id"), str):
                event_id = given[:512]
            await self.do(raw)
        except AntiphonError as error:
            await self.send(error_event(error, event_id))

    async def hear(self, data: bytes) -> None:
        """Take a binary message: here none is an event."""
        await self._handle(None)

    async def do(self, raw: Json) -> None:
        """Do what one client event says. Raise what is wrong with it."""
        await self.do_event(schema.parse_event(raw))

    async def do_event(self, event: schema.ClientEvent) -> None:
        session = self.session
        match event:
            case schema.AudioAppend():
                await session.append_audio(await pcm_from(event.audio, "audio", self.max_media_bytes, self._reader))
            case schema.AudioCommit():
                await session.commit_audio()
            case schema.AudioClear():
                await session.clear_audio()
            case schema.SessionUpdate():
                await check_model(event.session, session)
                await self.configure(session, event.session)
                await self.send({"type": "session.updated", "session": self._shown()})
            case schema.ItemCreate():
                item = await item_from(event.item, "item", self.max_media_bytes, self._reader.format)
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

    def _shown(self) -> Json:
        described = session_object(self.session, self._reader.format)
        usage = usage_object(self.session.usage)
        return {**described, "antiphon_usage": usage, "antiphon_kept": self._opened.is_kept}

    def _read_as(self, audio_format: AudioFormat) -> None:
        if audio_format is not self._reader.format:
            self._reader, self._writer.input_format = AudioReader(audio_format), audio_format

    async def _respond(self, given: schema.ResponseOptionsGiven) -> None:
        session, items = self.session, None
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
            return self.session.conversation.get(given.id, "invalid_item_reference")
        return await item_from(given, path, self.max_media_bytes, self._reader.format)

    # To the client

    def shown(self, events: Iterable[Json]) -> Iterable[Json]:
        """Return the events as the client knows them."""
        return events

    async def send(self, *events: Json) -> None:
        for event in self.shown(events):
            event["event_id"] = f"event_{secrets.token_hex(12)}"
            await self._socket.send(event)

    async def take_leave(self, reason: SessionEnd) -> None:
        """Send what comes last."""
        if reason is SessionEnd.FAULT:
            await self.send(error_event(Fault(INTERNAL), None))
        elif reason in LAST_WORDS:
            await self.send(error_event(BadInput(LAST_WORDS[reason], code=CLOSES[reason][1]), None))


async def _changed(
    options: ResponseOptions, given: schema.SessionOptions | schema.ResponseOptionsGiven
) -> ResponseOptions:
    if given.tools:
        return await asyncio.to_thread(changed, options, given)  # their schemas are checked
    return changed(options, given)
