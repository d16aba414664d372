"""The items of a response as its text comes: what the model says, and its calls of functions.

text ─▶ ToolCallParser ─▶ a message, ended by the next item unless it is spoken: then it lasts as long as its speech
                          a call, ended by the next item or by the text's end
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import replace

from services.gateway.http.chat.tools.parser import CallArguments, CallBegun, Content, Piece, ToolCallParser
from services.gateway.realtime.conversation import CallContent, Item, ItemStatus, SpeechContent, TextContent, new_id
from services.gateway.realtime.events import ArgumentsDelta, AudioDelta, Emit, OutputDone, OutputStarted, TextDelta
from services.gateway.realtime.places import Places
from services.gateway.realtime.response import Response
from services.gateway.realtime.spoken import Spoken
from services.gateway.turn.events import Text


class ResponseOutput:
    """`names`: the functions that may be called. `spoken` takes the text that is spoken, as it is shown."""

    def __init__(
        self, response: Response, emit: Emit, places: Places, names: Collection[str], spoken: Spoken | None
    ) -> None:
        self._response = response
        self._emit = emit
        self._places = places
        self._calls = ToolCallParser(names, lambda: new_id("call")) if names else None
        self._spoken = spoken
        # The one that is spoken, while its speech goes on.
        self._speech: Item | None = None
        # The last one, while text adds to it.
        self._open: Item | None = None
        self._begun: list[Item] = []
        self._text_is_over = False
        # White space that is no message of its own.
        self._white = ""

    async def begin(self) -> None:
        """Begin the message, where the answer can be nothing else."""
        if self._calls is None:
            await self._begin_message()

    async def add(self, text: Text) -> None:
        """Add text, and send what it makes."""
        delta = text.content_delta
        if self._calls is None:
            pieces: list[Piece] = [Content(delta)] if delta else []
        else:
            pieces = self._calls.add(delta)
        if self._spoken is not None and (self._calls is None or not self._calls.calls):
            self._spoken.add_text(replace(text, content_delta=""))
        await self._add(pieces)
        if text.is_last:
            await self.end_text()

    async def begin_speech(self) -> None:
        """Begin the message that is spoken, unless it has begun or there is none."""
        if not self._response.items:
            await self._begin_message()

    async def speak(self, pcm: bytes) -> None:
        if self._speech is not None:
            await self._emit(AudioDelta(self._response, self._speech, pcm))

    async def end_text(self) -> None:
        """End the text, perhaps before its last token. An answer that says nothing is a message, too."""
        if self._text_is_over:
            return
        self._text_is_over = True
        if self._calls is not None:
            await self._add(self._calls.finish())
        if not self._response.items:
            await self._begin_message()
            if self._white:
                await self._say(self._white)
        if self._open is not None and self._open.call is not None:
            await self._end_open()

    async def close(self, *, whole: bool) -> None:
        """End what has begun."""
        for item in tuple(self._begun):
            await self._end(item, whole=whole)

    async def _add(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            match piece:
                case Content(text):
                    await self._content(text)
                case CallBegun(_, call_id, name):
                    self._white = ""
                    await self._begin(Item("assistant", [CallContent(call_id, name)]))
                case CallArguments(_, text):
                    await self._argue(text)

    async def _content(self, text: str) -> None:
        if self._open is None or self._open.call is not None:
            text, self._white = self._white + text, ""
            if not text.strip():
                self._white = text
                return
            await self._begin_message()
        await self._say(text)

    async def _say(self, text: str) -> None:
        item = self._open
        if item is None:
            return
        content = item.contents[0]
        if isinstance(content, TextContent):
            content.text += text
        elif isinstance(content, SpeechContent):
            content.spoken.add_text(Text((), text))
        await self._emit(TextDelta(self._response, item, text))

    async def _argue(self, text: str) -> None:
        item = self._open
        if item is not None and (call := item.call) is not None:
            call.arguments += text
            await self._emit(ArgumentsDelta(self._response, item, text))

    # Items

    async def _begin_message(self) -> None:
        """Begin a message. The talker reads no text behind a call, so that one is not spoken."""
        is_spoken = self._spoken is not None and not self._response.items
        content = SpeechContent(self._spoken) if is_spoken and self._spoken is not None else TextContent("")
        item = Item("assistant", [content])
        if is_spoken:
            self._speech = item
        await self._begin(item)

    async def _begin(self, item: Item) -> None:
        await self._end_open()
        items = self._response.items
        after = items[-1].id if items else None
        self._open, item.status = item, ItemStatus.IN_PROGRESS
        items.append(item)
        self._begun.append(item)
        await self._emit(OutputStarted(self._response, item, self._places.add(item, after)))

    async def _end_open(self) -> None:
        item, self._open = self._open, None
        if item is not None and item is not self._speech:
            await self._end(item, whole=True)

    async def _end(self, item: Item, *, whole: bool) -> None:
        call = item.call
        if call is not None:
            whole = _is_object(call.arguments)
        item.status = ItemStatus.COMPLETED if whole else ItemStatus.INCOMPLETE
        await self._emit(OutputDone(self._response, item, self._places.before(item)))
        self._begun.remove(item)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
