"""Finds a line's custom_id without having the line in memory."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing

from pydantic_core import from_json

from services.gateway.batches.object_store import CHUNK_BYTES, ObjectStore
from services.gateway.memory import GatewayMemory
from services.gateway.turn.held_media import SMALL_BYTES

_STRUCTURE = re.compile(rb'["{}\[\]:,]')
_STRING_STOP = re.compile(rb'["\\]')
# Longer keys and ids than any that a line may have, with each character as an escape.
_MOST_BYTES = 1 << 13


async def read_custom_id(
    store: ObjectStore, name: str, offset: int, size_bytes: int, memory: GatewayMemory, tenant: str
) -> str:
    """Return the id of a line that was valid when it was looked at; "" = it is not any more. It takes a chunk of the
    requests' memory. Raise Gone, Unavailable, and Capacity where there was no room in time."""
    finder = CustomIdFinder()
    async with memory.request(tenant) as held:
        if size_bytes > SMALL_BYTES:
            takes = min(size_bytes, CHUNK_BYTES, memory.budget.total_bytes)
            await held.take(takes, most_bytes=takes, what="The line")
        async with aclosing(store.chunks(name, offset, size_bytes)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(finder.add, chunk)
    return finder.found


class CustomIdFinder:
    """Reads a line of JSON chunk by chunk, however its chunks cut it. `found`: its custom_id, "" = there was none."""

    def __init__(self) -> None:
        self.found = ""
        self._depth = 0
        # Of the line's own object: the key that came last, and whether its value is what comes now.
        self._key = ""
        self._is_value = False
        self._in_string = self._is_escaped = False
        self._string = bytearray()

    def add(self, chunk: bytes) -> None:
        at = 0
        while at < len(chunk):
            at = self._through_string(chunk, at) if self._in_string else self._through_structure(chunk, at)

    def _through_structure(self, chunk: bytes, at: int) -> int:
        found = _STRUCTURE.search(chunk, at)
        if found is None:
            return len(chunk)
        match found.group():
            case b'"':
                self._in_string = True
                self._string.clear()
            case b"{" | b"[":
                self._depth += 1
            case b"}" | b"]":
                self._depth -= 1
            case mark if self._depth == 1:
                self._is_value = mark == b":"
            case _:
                pass
        return found.end()

    def _through_string(self, chunk: bytes, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            self._keep(chunk[at : at + 1])
            return at + 1
        found = _STRING_STOP.search(chunk, at)
        end = found.start() if found is not None else len(chunk)
        self._keep(chunk[at : min(end, at + _MOST_BYTES)])
        if found is None:
            return end
        if found.group() == b"\\":
            self._is_escaped = True
            self._keep(b"\\")
        else:
            self._in_string = False
            self._end_string()
        return found.end()

    def _keep(self, part: bytes) -> None:
        if self._depth == 1 and len(self._string) <= _MOST_BYTES:
            self._string += part

    def _end_string(self) -> None:
        if self._depth != 1:
            return
        try:
            text = str(from_json(b'"%b"' % bytes(self._string)))
        except ValueError:
            text = ""
        if not self._is_value:
            self._key = text
        elif self._key == "custom_id":
            self.found = text
