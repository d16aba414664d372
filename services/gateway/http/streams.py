"""The events of a request's turns as a streamed response, whatever its form."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from starlette.types import Send

from services.common.errors import AntiphonError, forget_frames
from services.common.http.errors import error_body, error_object
from services.common.http.respond import send_error, send_start
from services.gateway.http.choices import ChoiceEvents, are_billed
from services.gateway.http.idle_timer import IdleTimer
from services.gateway.http.respond import FAILED
from services.gateway.turn.events import TurnEvent
from services.gateway.turn.playback import SpeechMeter
from services.gateway.turn.turn import Turn

SSE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
_KEEP_ALIVE = b": keep-alive\n\n"
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # made once: json.dumps makes one a call


def sse(*objects: dict[str, Any]) -> bytes:
    """Return the server-sent events of JSON objects."""
    return "".join([f"data: {_json(item)}\n\n" for item in objects]).encode()


class StreamForm(ABC):
    """The form of a streamed response. These are of server-sent events."""

    headers = SSE_HEADERS
    # Sent where there is nothing else for long; b"" = all bytes of the form mean something.
    keep_alive = _KEEP_ALIVE
    # After the last event.
    end = b""

    @abstractmethod
    async def encoded(self, events: Sequence[TurnEvent], choice: int) -> bytes:
        """Return the part of the body of one turn's events. It may be empty. choice: the turn's index."""

    def failed(self, error: AntiphonError) -> bytes | None:
        """Return what tells the client of an error after the stream began; None = only a broken connection does."""
        return sse(error_object(error))

    def error_body(self, error: AntiphonError) -> bytes:
        """Return the body of an error before the stream began."""
        return error_body(error)

    @abstractmethod
    def close(self) -> None:
        """Free what the form holds. It may be called twice."""


def name_field(error: AntiphonError, turn: Turn) -> AntiphonError:
    """Return the error with the field's name as the client wrote it: a stage knows messages and their parts only."""
    return rename_messages(error, turn.request.intent.names.messages)


def rename_messages(error: AntiphonError, messages: str) -> AntiphonError:
    """Return the error with `messages` in place of the field "messages".

    That and a field below it ("messages[0].content[1]") are one field where the form has another name for them. A path
    of the form's own ("input[0].content[1]") stays.
    """
    if error.param is not None and messages != "messages" and not error.param.startswith(f"{messages}["):
        for name in ("messages", messages):
            if re.match(rf"{name}\b", error.param):
                error.param = messages
    return error


async def stream_turns(turns: Sequence[Turn], form: StreamForm, send: Send, keep_alive_s: float) -> None:
    """Send the events of all turns as they come.

    The status is sent with the first part of the body, so that an earlier error has a status of its own, or with the
    first keep-alive comment, so that neither client nor proxy closes the connection. A later error is the last event.
    """
    events = ChoiceEvents(turns)
    meter = SpeechMeter(turns[0].model.sample_rate)
    idle = IdleTimer(keep_alive_s, events.nudge)
    began = False
    try:
        while (taken := await events.take()) is not None:
            body, is_idle = b"", True
            for choice, of_choice in taken:
                if of_choice:
                    is_idle = False
                    for event in of_choice:
                        meter.note(event)
                    body += await form.encoded(of_choice, choice)
            if body := form.keep_alive if is_idle else body:
                if not began:
                    began = True
                    await send_start(send, 200, {**form.headers, **turns[0].account.headers})
                await send({"type": "http.response.body", "body": body, "more_body": True})
            for choice, of_choice in taken:
                turns[choice].sent(of_choice)
            idle.touch()
        if not began:
            await send_start(send, 200, {**form.headers, **turns[0].account.headers})
        await send({"type": "http.response.body", "body": form.end})
    except AntiphonError as error:
        forget_frames(error)
        name_field(error, turns[0])
        if not began:
            body = form.error_body(error)
            await send_error(send, error, billed=are_billed(turns), headers=turns[0].account.headers, body=body)
        elif (told := form.failed(error)) is not None:
            await send({"type": "http.response.body", "body": told, FAILED: True})
        # Else the response stays incomplete, and the server closes the connection.
    finally:
        idle.close()
        form.close()
        await events.close()
