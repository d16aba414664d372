"""A turn's events as those of a response. Pure: no clock, no socket.

    response.created, response.in_progress
    for each item of the output:
        response.output_item.added
            a message: response.content_part.added, response.output_text.delta, …, .done, response.content_part.done
            a chain of thought: the same, with response.reasoning_text
            a call: response.function_call_arguments.delta, …, .done
        response.output_item.done
    response.completed, response.incomplete or response.failed

An item ends where the next one begins. Each event has the next `sequence_number`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from services.common.errors import AntiphonError
from services.common.http.errors import error_object
from services.gateway.http.chat.completion import new_call_id
from services.gateway.http.chat.logprobs import logprobs_object
from services.gateway.http.chat.tools.parser import CallArguments, CallBegun, Content, Piece, ToolCallParser
from services.gateway.http.chat.usage import is_cut
from services.gateway.http.responses.answer import (
    Json,
    ResponseForm,
    ended_response,
    failed_response,
    response_object,
)
from services.gateway.turn.events import Text, TokenLogprobs, TurnDone, TurnEvent, TurnStarted


class ResponseEvents:
    """Turns the events of a turn into those of its response."""

    def __init__(
        self, form: ResponseForm, now_unix_s: Callable[[], float], *, new_id: Callable[[], str] = new_call_id
    ) -> None:
        self._form = form
        self._now_unix_s = now_unix_s
        self._calls = ToolCallParser(form.tool_names, new_id)
        self._sequence_number = 0
        self._output: list[Json] = []
        # The last item of the output, while it is open, and what its text or its arguments are made of.
        self._open: Json | None = None
        self._chunks: list[str] = []
        self._logprobs: list[Json] = []
        # Log probabilities of tokens that complete no character yet.
        self._early_logprobs: list[TokenLogprobs] = []
        # White space that is no message of its own: between calls, or before one.
        self._white = ""

    def add(self, event: TurnEvent) -> list[Json]:
        match event:
            case TurnStarted():
                return [
                    self._event("response.created", response=response_object(self._form, [])),
                    self._event("response.in_progress", response=response_object(self._form, [])),
                ]
            case Text():
                return [*self._thought(event.reasoning_delta), *self._answer(event)]
            case TurnDone():
                return self._done(event)
            case _:
                return []

    def fail(self, error: AntiphonError) -> list[Json]:
        """Return the events of an error. The first one has it in the form of the API's description, and in that of
        OpenAI's servers, which clients raise."""
        if self._open is not None:
            self._end_item("incomplete")
        described = error_object(error)["error"]
        told = {"code": error.code, "message": error.message, "param": error.param, "error": described}
        return [
            self._event("error", **told),
            self._event("response.failed", response=failed_response(self._form, self._output, error)),
        ]

    def _thought(self, text: str) -> list[Json]:
        if not text:
            return []
        opened: list[Json] = []
        if self._open is None or self._open["type"] != "reasoning":
            opened = [*self._closed(), *self._opened("rs", {"type": "reasoning", "summary": [], "content": []})]
            opened.append(self._part_event("response.content_part.added", part={"type": "reasoning_text", "text": ""}))
        self._chunks.append(text)
        return [*opened, self._part_event("response.reasoning_text.delta", delta=text)]

    def _answer(self, event: Text) -> list[Json]:
        if self._form.logprobs and not event.reasoning_delta:
            self._early_logprobs += event.logprobs
        return self._of_pieces(self._pieces(event.content_delta))

    def _pieces(self, text: str) -> Sequence[Piece]:
        if self._form.tool_names:
            return self._calls.add(text)
        return [Content(text)] if text else []

    def _of_pieces(self, pieces: Iterable[Piece]) -> list[Json]:
        return [event for piece in pieces for event in self._of_piece(piece)]

    def _of_piece(self, piece: Piece) -> list[Json]:
        match piece:
            case Content(text):
                return self._said(text)
            case CallBegun(_, call_id, name):
                self._white = ""
                self._early_logprobs.clear()
                call = {"type": "function_call", "call_id": call_id, "name": name, "arguments": ""}
                return [*self._closed(), *self._opened("fc", call)]
            case CallArguments(_, text):
                self._chunks.append(text)
                return [self._item_event("response.function_call_arguments.delta", delta=text)]

    def _said(self, text: str) -> list[Json]:
        opened: list[Json] = []
        if self._open is None or self._open["type"] != "message":
            text, self._white = self._white + text, ""
            if self._form.tool_names and not text.strip():
                self._white = text
                return []
            opened = self._message()
        self._chunks.append(text)
        logprobs = _objects(self._early_logprobs)
        self._early_logprobs.clear()
        self._logprobs += logprobs
        return [*opened, self._part_event("response.output_text.delta", delta=text, logprobs=logprobs)]

    def _message(self) -> list[Json]:
        """Return the events that begin a message."""
        begun = [*self._closed(), *self._opened("msg", {"type": "message", "role": "assistant", "content": []})]
        return [*begun, self._part_event("response.content_part.added", part=_text_part("", []))]

    def _done(self, done: TurnDone) -> list[Json]:
        events = self._of_pieces(self._calls.finish())
        is_thought = self._open is not None and self._open["type"] == "reasoning"
        # An empty answer is a message, too, but for a chain of thought that a limit cut.
        if not self._output or self._white or (is_thought and not is_cut(done)):
            events += self._rest()
        events += self._closed("incomplete" if is_cut(done) else "completed")
        response = ended_response(self._form, self._output, done, self._now_unix_s())
        return [*events, self._event(f"response.{response['status']}", response=response)]

    def _rest(self) -> list[Json]:
        """Return the events of white space at the end, where it is all that the answer says."""
        text, self._white = self._white, ""
        if any(item["type"] != "reasoning" for item in self._output):
            return []
        begun = self._message()
        if text:
            self._chunks.append(text)
            begun.append(self._part_event("response.output_text.delta", delta=text, logprobs=[]))
        return begun

    # Items

    def _opened(self, kind: str, item: Json) -> list[Json]:
        index = len(self._output)
        self._open = {"id": self._form.item_id(kind, index), **item, "status": "in_progress"}
        self._output.append(self._open)
        self._chunks, self._logprobs = [], []
        return [self._event("response.output_item.added", output_index=index, item=dict(self._open))]

    def _closed(self, status: str = "completed") -> list[Json]:
        """Return the events that end the open item, if there is one."""
        item, text = self._open, "".join(self._chunks)
        if item is None:
            return []
        events: list[Json] = []
        if item["type"] == "function_call":
            status = "completed" if _is_object(text) else status
            events.append(self._item_event("response.function_call_arguments.done", name=item["name"], arguments=text))
        elif item["type"] == "message":
            self._logprobs += _objects(self._early_logprobs)
            self._early_logprobs.clear()
            part = _text_part(text, self._logprobs)
            events.append(self._part_event("response.output_text.done", text=text, logprobs=self._logprobs))
            events.append(self._part_event("response.content_part.done", part=part))
        else:
            events.append(self._part_event("response.reasoning_text.done", text=text))
            part = {"type": "reasoning_text", "text": text}
            events.append(self._part_event("response.content_part.done", part=part))
        index = len(self._output) - 1
        self._end_item(status)
        return [*events, self._event("response.output_item.done", output_index=index, item=item)]

    def _end_item(self, status: str) -> None:
        """Write what the open item has become into it."""
        item, text = self._open or {}, "".join(self._chunks)
        item["status"] = status
        match item["type"]:
            case "function_call":
                item["arguments"] = text
            case "message":
                item["content"] = [_text_part(text, self._logprobs)]
            case _:
                item["content"] = [{"type": "reasoning_text", "text": text}]
        self._open = None

    # Events

    def _part_event(self, kind: str, **fields: Any) -> Json:
        return self._item_event(kind, content_index=0, **fields)

    def _item_event(self, kind: str, **fields: Any) -> Json:
        item_id = self._open["id"] if self._open is not None else ""
        return self._event(kind, item_id=item_id, output_index=len(self._output) - 1, **fields)

    def _event(self, kind: str, **fields: Any) -> Json:
        event = {"type": kind, "sequence_number": self._sequence_number, **fields}
        self._sequence_number += 1
        return event


def encoded(events: Iterable[Json]) -> bytes:
    """Return them as server-sent events, which have the type as their name."""
    return "".join(
        f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n"
        for event in events
    ).encode()


def _text_part(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _objects(logprobs: Sequence[TokenLogprobs]) -> list[Json]:
    return logprobs_object(logprobs)["content"] if logprobs else []


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
