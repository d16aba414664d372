"""One session of OpenAI's Live API over a WebSocket."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from services.common.errors import INTERNAL, AntiphonError, BadInput, Fault, Unauthenticated
from services.gateway.realtime.audio.formats import AudioFormat, AudioReader
from services.gateway.realtime.conversation import SAMPLE_RATE, Item, TextContent
from services.gateway.realtime.events import Event
from services.gateway.realtime.input_options import Transcription
from services.gateway.realtime.json_events import json_event
from services.gateway.realtime.live import context, schema
from services.gateway.realtime.live.options import FIELD_NAMES, begun_settings, format_of, instructions_of
from services.gateway.realtime.live.silence import SilenceBehindSpeech
from services.gateway.realtime.live.write import AUDIO_DELTA, LiveEvents, error_event, info_event, session_object
from services.gateway.realtime.openai.items import pcm_from
from services.gateway.realtime.openai.options import changed, changed_turn_detection, merged_settings
from services.gateway.realtime.openai.schema import SessionOptions
from services.gateway.realtime.session import Session
from services.gateway.realtime.session_end import SessionEnd
from services.gateway.realtime.sessions import OpenSession, Sessions
from services.gateway.realtime.socket import CLOSES, LAST_WORDS, SessionSocket
from services.gateway.realtime.tools import Tools
from services.gateway.realtime.turns.options import TurnDetection
from services.gateway.turn.intent import Principal

# How far audio is ahead of a client that plays at once. The API has no word that stops a playback: what was sent is
# heard, also by a user who interrupts.
_LEAD_S = 0.3
# How long a client has from the upgrade until its session.start.
START_S = 10.0
# Audio between two reports of what was used.
_REPORT_EVERY_S = 10.0
# Silence behind a turn that a mute ends, beyond what ends a turn.
_MORE_SILENCE_MS = 500

# Why the session ended, of the reasons that the API has. The close code's own word is beside it.
_REASONS = {SessionEnd.REQUESTED: "close_requested", SessionEnd.IDLE: "expired", SessionEnd.EXPIRED: "expired"}
_LOST = "connection_lost"
_NOTICES = {**LAST_WORDS, SessionEnd.DRAINED: "This server shuts down. Connect again."}
_LAST_ERRORS = {
    SessionEnd.FAULT: Fault(INTERNAL),
    SessionEnd.REVOKED: Unauthenticated("The API key was revoked.", code=CLOSES[SessionEnd.REVOKED][1]),
    SessionEnd.KEY_EXPIRED: Unauthenticated("The API key has expired.", code=CLOSES[SessionEnd.KEY_EXPIRED][1]),
}

logger = logging.getLogger(__name__)


class LiveConnection:
    """Waits for the client's session.start, then reads its events one after another and writes what the session tells.

    `session_id`: the kept session that this goes on with.
    """

    def __init__(self, socket: SessionSocket, sessions: Sessions, principal: Principal, session_id: str | None) -> None:
        self._socket = socket
        self._sessions = sessions
        self._limits = sessions.limits
        self._principal = principal
        self._session_id = session_id
        self._is_muted = False
        self._reported_s = 0.0
        self._close_event_id: str | None = None
        self._started_s = 0.0
        self._reader: AudioReader
        self._events: LiveEvents
        self._silence: SilenceBehindSpeech
        self._session: Session
        self._opened: OpenSession

    async def emit(self, event: Event) -> None:
        """Send a session's event. Where the client does not take it in time, end the session; then send nothing."""
        await self._send(*self._silence.follow(self._events.written(event)))

    async def run(self, subprotocol: str | None) -> None:
        """Serve the connection to its end. What this raises before the upgrade refuses it."""
        async with self._sessions.expecting(self._principal):
            await self._socket.accept(subprotocol)
            start = await self._read_start()
        if start is None:
            return
        refusal: Exception | None = None
        async with AsyncExitStack() as held:
            try:
                await self._begin(held, start.session)
            except Exception as error:
                refusal = error
            else:
                await self._serve(start.event_id)
        if refusal is not None:
            await self._refuse(refusal, start.event_id)

    async def _serve(self, event_id: str | None) -> None:
        silence = asyncio.create_task(self._silence.run(), name=f"silence of {self._session.id}")
        try:
            end = await self._socket.serve(self._opened, partial(self._greet, event_id), self._handle)
        finally:
            silence.cancel()
            await asyncio.gather(silence, return_exceptions=True)
        if end is not None:
            await self._close(end)

    # The start

    async def _read_start(self) -> schema.SessionStart | None:
        """Return the client's session.start; None = there was none, and the connection is closed."""
        raw: dict[str, Any] = {}
        try:
            async with asyncio.timeout(START_S):
                while (message := await self._socket.receive())["type"] != "websocket.disconnect":
                    raw = {}
                    try:
                        raw = await json_event(message.get("text"), self._limits.max_text_bytes)
                        event = schema.parse_event(raw)
                        if isinstance(event, schema.SessionStart):
                            return event
                        raise BadInput("There is no session yet. Send session.start first.", code="session_not_started")
                    except AntiphonError as error:
                        if raw.get("type") == "session.start":
                            raise
                        await self._send(error_event(error, _event_id(raw)))
        except TimeoutError:
            code, reason = CLOSES[SessionEnd.IDLE]
            await self._send(info_event(reason, "The session did not start in time. Send session.start at once."))
            await self._socket.close_as(code, reason)
        except AntiphonError as error:
            await self._refuse(error, _event_id(raw))
        return None

    async def _refuse(self, error: Exception, event_id: str | None) -> None:
        """Say why the session does not start, and close the connection, so that clients do not wait."""
        if not isinstance(error, AntiphonError):
            logger.error("a session did not start", exc_info=error)
            error = Fault(INTERNAL)
        await self._send(error_event(error, event_id))
        again = 1013 if error.status in (429, 503) else 1011 if error.status >= 500 else 1008
        await self._socket.close_as(again, error.code)

    async def _begin(self, held: AsyncExitStack, config: schema.SessionConfig) -> None:
        """Open the session as the client wants it. Raise what it can't be."""
        principal, session_id = self._principal, self._session_id
        kept = await self._sessions.find(principal, session_id) if session_id is not None else None
        settings, model = begun_settings(principal, kept, config)
        opening = self._sessions.open(principal, model, FIELD_NAMES, self.emit, TurnDetection(), kept, lead_s=_LEAD_S)
        self._opened = await held.enter_async_context(opening)
        self._session = session = self._opened.session
        audio_format = format_of(config)
        self._reader = AudioReader(audio_format)
        self._events = LiveEvents(session, audio_format, self._now_ms)
        self._silence = SilenceBehindSpeech(self._events, self._now_ms, self._send)
        await self._configure(audio_format, settings)
        for past in config.input or ():
            role = "system" if past.role == "developer" else past.role
            await session.items.create(Item(role, [TextContent(past.content[0].text)]), None)

    async def _configure(self, audio_format: AudioFormat, settings: list[SessionOptions]) -> None:
        session = self._session
        options, detection, kept = session.options, session.turn_detection, session.settings
        for given in settings:
            options = await asyncio.to_thread(changed, options, given)  # schemas of tools may be checked
            detection = changed_turn_detection(detection, given)
            kept = merged_settings(kept, given)
        delegates = session.model.structures_answers and session.model.tool_call_token_id is not None
        options = replace(
            options,
            speaks=True,
            preset=options.system_preset,  # what the application wants said is nothing to do a task with
            audio_format=audio_format,
            tools=context.DELEGATE if delegates else Tools(),
            transcription=options.transcription or Transcription(),
        )
        await session.set_options(options, detection or TurnDetection())
        self._keep(kept)

    def _keep(self, settings: str) -> None:
        self._session.settings = settings
        self._opened.settings_changed()

    async def _greet(self, event_id: str | None) -> None:
        self._started_s = time.monotonic()
        await self._answer("session.started", event_id, session=self._shown())

    # Client events

    async def _handle(self, text: str | None) -> None:
        """Do what one client event says. What is wrong with it the client is told, and the session goes on."""
        raw: dict[str, Any] = {}
        try:
            raw = await json_event(text, self._limits.max_text_bytes)
            await self._do(schema.parse_event(raw))
        except AntiphonError as error:
            await self._send(error_event(error, _event_id(raw)))

    async def _do(self, event: schema.ClientEvent) -> None:
        session = self._session
        match event:
            case schema.AudioAppend():
                await self._hear(event.audio)
            case schema.Mute():
                self._is_muted = True
                if self._events.is_user_speaking:
                    await self._end_turn()
                await self._answer("session.input_audio.muted", event.event_id)
            case schema.Unmute():
                self._is_muted = False
                await self._answer("session.input_audio.unmuted", event.event_id)
            case schema.InstructionsAppend() | schema.ThinkingAppend() | schema.CommentaryAppend():
                await self._append(event)
            case schema.SessionUpdate():
                await self._answer("session.updated", event.event_id, session=self._shown())
            case schema.SessionClose():
                self._close_event_id = event.event_id
                session.end(SessionEnd.REQUESTED)
            case schema.SessionStart():
                raise BadInput("The session has started. Open another connection.", code="session_already_started")

    async def _hear(self, encoded: str) -> None:
        pcm = await pcm_from(encoded, "audio", self._limits.max_media_bytes, self._reader)
        length_ms = len(pcm) // 2 * 1000 / SAMPLE_RATE
        timeline = self._events.timeline
        timeline.hear(length_ms, self._now_ms())
        try:
            await self._session.append_audio(bytes(len(pcm)) if self._is_muted else pcm)
        except AntiphonError:
            timeline.skip(-length_ms)
            raise
        if timeline.used_s - self._reported_s >= _REPORT_EVERY_S:
            self._reported_s = timeline.used_s
            await self._send(self._events.usage_event())

    async def _end_turn(self) -> None:
        """End the turn of the user, who is muted in mid speech: their client may send nothing more."""
        detection = self._session.turn_detection or TurnDetection()
        silent_ms = detection.longest_silence_ms + _MORE_SILENCE_MS
        await self._session.append_audio(bytes(2 * SAMPLE_RATE * silent_ms // 1000))
        self._events.timeline.skip(silent_ms)

    async def _append(self, event: schema.ContextAppend) -> None:
        session, content, of = self._session, event.content, event.delegation_id
        context.check_delegation(session.conversation, of)
        match event:
            case schema.InstructionsAppend():
                await self._instruct(content)
            case schema.ThinkingAppend():
                await session.items.create(context.thinking(content), None)
            case schema.CommentaryAppend():
                await session.items.create(context.commentary(session.conversation, content, of), None)
        now_ms = round(self._now_ms())
        await self._answer(f"{event.type}ed", event.event_id, start_ms=now_ms, end_ms=now_ms)
        # To a user who speaks, the answer at their turn's end says it.
        if isinstance(event, schema.CommentaryAppend) and not self._events.is_user_speaking:
            await session.answer()

    async def _instruct(self, content: str) -> None:
        """Add to the instructions, which are never left out of a prompt."""
        session = self._session
        instructions = instructions_of(session.options.instructions, content)
        await session.set_options(replace(session.options, instructions=instructions), session.turn_detection)
        self._keep(merged_settings(session.settings, SessionOptions(instructions=instructions)))

    # To the client

    def _now_ms(self) -> float:
        return (time.monotonic() - self._started_s) * 1000

    def _shown(self) -> dict[str, Any]:
        return session_object(self._session, self._reader.format)

    async def _answer(self, kind: str, event_id: str | None, **fields: Any) -> None:
        await self._send({"type": kind, **({"client_event_id": event_id} if event_id is not None else {}), **fields})

    async def _send(self, *events: dict[str, Any]) -> None:
        for event in events:
            if event["type"] != AUDIO_DELTA:
                event["event_id"] = f"event_{secrets.token_hex(12)}"
            await self._socket.send(event)

    async def _close(self, end: SessionEnd) -> None:
        if end in _LAST_ERRORS:
            await self._send(error_event(_LAST_ERRORS[end], None))
        elif end in _NOTICES:
            await self._send(info_event(CLOSES[end][1], _NOTICES[end]))
        closed = {"reason": _REASONS.get(end, _LOST), "antiphon_reason": CLOSES[end][1]}
        await self._answer(
            "session.closed", self._close_event_id, **closed, session=self._shown(), usage=self._events.usage()
        )
        await self._socket.close(end)


def _event_id(raw: dict[str, Any]) -> str | None:
    given = raw.get("event_id")
    return given[:512] if isinstance(given, str) else None
