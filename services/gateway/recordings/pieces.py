"""The pieces of one recording: on disk from when they are cut until they are read."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

from services.common.errors import AntiphonError, Capacity
from services.gateway.turn.held_media import HeldMedia, Spill, SpilledFile
from services.gateway.turn.turns import OpenedAccount
from services.gateway.turn.worker_calls import CutSamples

SAMPLE_RATE = 16_000
_SAMPLE_BYTES = 4
_FLOAT = 3  # of a WAV file's formats


@dataclass(frozen=True, slots=True)
class DiskPiece:
    """`end`: the recording's samples up to here are in this piece and those before."""

    end: int
    _file: SpilledFile
    _size_bytes: int

    def media(self) -> HeldMedia:
        """Return the piece as a WAV file, its samples as they are. It stays on the disk."""
        return HeldMedia.on_disk(self._file, self._size_bytes)

    @property
    def end_s(self) -> float:
        return self.end / SAMPLE_RATE

    def close(self) -> None:
        self._file.close()


class Pieces:
    """Filled by one task and read by another. Close it at the end."""

    def __init__(self, disk: Spill, opened: OpenedAccount | None = None) -> None:
        self._disk = disk
        self.opened = opened
        """The account of the first piece's turn."""
        self._pieces: list[DiskPiece] = []
        self._changed = asyncio.Event()
        self._is_whole = False
        self._error: AntiphonError | None = None
        # The piece that is not complete yet, and how many bytes of it there are.
        self._file: SpilledFile | None = None
        self._size_bytes = 0
        # By the file's headers, until the recording is cut; 0 = it is not known yet.
        self.recording_s = 0.0

    @property
    def samples(self) -> int:
        """How many samples there are so far."""
        return self._pieces[-1].end if self._pieces else 0

    async def add(self, part: CutSamples) -> None:
        """Write the next samples to the disk. Raise Capacity where that has no room."""
        if self._file is None:
            self._file, self._size_bytes = await self._disk.open(), _HEADER_BYTES
        if self._file is None or not await self._file.write(self._size_bytes, part.samples):
            raise _no_room()
        self._size_bytes += len(part.samples)
        if not part.ends_piece:
            return
        data_bytes = self._size_bytes - _HEADER_BYTES
        if not await self._file.write(0, _wav_header(data_bytes)):
            raise _no_room()
        end = self.samples + data_bytes // _SAMPLE_BYTES
        self._pieces.append(DiskPiece(end, self._file, self._size_bytes))
        self._file = None
        self.recording_s = max(part.recording_s, end / SAMPLE_RATE)
        self._changed.set()

    def drop_incomplete(self) -> None:
        """Forget the samples of a piece that is not complete: they come again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def end(self, error: AntiphonError | None = None) -> None:
        """There are no more. With an error, the recording is not whole."""
        self._is_whole, self._error = error is None, error
        if self._is_whole:
            self.recording_s = self.samples / SAMPLE_RATE
        self._changed.set()

    async def get(self, index: int) -> DiskPiece | None:
        """Wait for a piece; None = there is none. Raise the error of a recording that could not be cut up to there."""
        while index >= len(self._pieces):
            if self._error is not None:
                raise self._error
            if self._is_whole:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._pieces[index]

    def close(self) -> None:
        self.drop_incomplete()
        for piece in self._pieces:
            piece.close()


def _no_room() -> Capacity:
    return Capacity(
        "The recording found no room on the server's disk. Send the request again later.",
        code="spill_full",
        retry_after_s=30,
    )


def _wav_header(data_bytes: int) -> bytes:
    """Return the header of a WAV file of float32 samples, mono, at SAMPLE_RATE."""
    form = struct.pack("<HHIIHH", _FLOAT, 1, SAMPLE_RATE, SAMPLE_RATE * _SAMPLE_BYTES, _SAMPLE_BYTES, 32)
    fact = struct.pack("<I", data_bytes // _SAMPLE_BYTES)
    chunks = b"WAVE" + _chunk(b"fmt ", form) + _chunk(b"fact", fact) + b"data" + struct.pack("<I", data_bytes)
    return b"RIFF" + struct.pack("<I", len(chunks) + data_bytes) + chunks


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


_HEADER_BYTES = len(_wav_header(0))
