"""The samples of one spoken answer, on their way to the disk while it is spoken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from services.gateway.audio.encoders import wav_header
from services.gateway.turn.events import Speech, SpeechStarted, TurnEvent
from services.gateway.turn.held_media import Spill, SpilledFile

# Samples that wait for a slow disk: five seconds of speech.
_PENDING_BYTES = 1 << 18


class Recording:
    """Nobody waits for it, and nothing of it is raised: what the disk has no room for is not kept. `close` it at the
    end."""

    def __init__(self, spill: Spill) -> None:
        self._spill = spill
        self._file: SpilledFile | None = None
        self._pending = bytearray()
        self._writing: asyncio.Task[None] | None = None
        self._failed = self._closed = False
        self._sample_rate = 0
        self._written_bytes = 0

    def add(self, events: Iterable[TurnEvent]) -> None:
        for event in events:
            if isinstance(event, SpeechStarted):
                self._sample_rate = event.sample_rate
            elif isinstance(event, Speech) and not self._failed:
                self._pending += event.pcm
        if len(self._pending) > _PENDING_BYTES:
            self._fail()
        elif self._pending and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write(), name="record an answer")

    @property
    def holds_speech(self) -> bool:
        """Whether there is speech, and all of it so far had room."""
        return bool(self._sample_rate) and not self._failed and bool(self._pending or self._written_bytes)

    async def settle(self) -> bool:
        """Wait until all is on the disk. Return whether it is."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))
        return self.holds_speech

    @property
    def header(self) -> bytes:
        """What stands before its samples in a WAV file."""
        return wav_header(self._written_bytes, self._sample_rate)

    @property
    def pcm_bytes(self) -> int:
        return self._written_bytes

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """Return samples, once it has settled. Raise OSError."""
        if self._file is None:
            raise OSError("nothing was recorded")
        return await self._file.read(offset, size_bytes)

    def close(self) -> None:
        """Free the disk, at once or as soon as it is done with."""
        self._fail()
        self._closed = True
        if self._file is not None:
            self._file.close()

    def _fail(self) -> None:
        self._failed = True
        self._pending = bytearray()

    async def _write(self) -> None:
        if self._file is None:
            self._file = await self._spill.open()
            if self._closed and self._file is not None:
                self._file.close()
        while self._pending:
            data, self._pending = self._pending, bytearray()
            if self._file is None or not await self._file.write(self._written_bytes, data):
                self._fail()
            self._written_bytes += len(data)
