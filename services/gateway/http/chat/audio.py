"""Speech on the wire: base64 that joins, and WAV."""

from __future__ import annotations

import base64
import struct

# Whole 16-bit samples, and whole base64 groups, so that no "=" stands inside a joined stream.
_GROUP_BYTES = 6


class PcmChunker:
    """Cuts a stream of 16-bit samples into base64 pieces that decode apart and joined."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, pcm: bytes) -> str:
        """Base64 of all that can go now: a multiple of 6 bytes; "" where that is nothing."""
        data = self._rest + pcm if self._rest else pcm
        cut = len(data) - len(data) % _GROUP_BYTES
        self._rest = data[cut:]
        return base64.b64encode(data[:cut]).decode()

    def finish(self) -> str:
        """The last bytes, the only piece that may be padded."""
        rest, self._rest = self._rest, b""
        return base64.b64encode(rest).decode()


def wav_file(pcm: bytes, sample_rate: int) -> bytes:
    """A RIFF file of mono 16-bit samples."""
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", 36 + len(pcm), b"WAVE",
        b"fmt ", 16, 1, 1, sample_rate, sample_rate * 2, 2, 16,
        b"data", len(pcm),
    )  # fmt: skip
    return header + pcm
