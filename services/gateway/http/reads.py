"""Bounds what a connection's reads bring at a time."""

from __future__ import annotations

import asyncio

from services.gateway.limits import READ_BYTES


class ReadBuffer:
    """Where the system writes what a connection reads. All connections of an event loop share it: what one read brings
    is taken out before the next one begins."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))


class BoundedReads(asyncio.BufferedProtocol):
    """Gives `protocol` at most READ_BYTES at a time. uvloop would read up to 250 KB into an object for each connection,
    and those of connections that wait for memory would be the largest part of what the process takes."""

    def __init__(self, protocol: asyncio.Protocol, buffer: ReadBuffer) -> None:
        self._buffer = buffer.view
        self._protocol = protocol
        self.connection_made = protocol.connection_made
        self.connection_lost = protocol.connection_lost
        self.eof_received = protocol.eof_received
        self.pause_writing = protocol.pause_writing
        self.resume_writing = protocol.resume_writing

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._protocol.data_received(bytes(self._buffer[:nbytes]))
