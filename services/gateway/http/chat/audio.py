"""Speech on the wire: base64 that can be concatenated, and WAV."""

from __future__ import annotations

import base64
import struct

# Whole 16-bit samples and whole base64 groups, so that a concatenated stream has no "=" inside.
_GROUP_BYTES = 6


class PcmChunker:
    """Cuts a stream of 16-bit samples into base64 chunks that decode one by one and concatenated."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, pcm: bytes) -> str:
        """Return the base64 of as many bytes as are a multiple of 6. It may be empty."""
        data = self._rest + pcm if self._rest else pcm
        cut = len(data) - len(data) % _GROUP_BYTES
        self._rest = data[cut:]
        return base64.b64encode(data[:cut]).decode()

    def finish(self) -> str:
        """Return the last bytes, the only chunk that may be padded."""
        rest, self._rest = self._rest, b""
        return base64.b64encode(rest).decode()


def wav_file(pcm: bytes, sample_rate: int) -> bytes:
    """Return a WAV file of mono 16-bit samples."""
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", 36 + len(pcm), b"WAVE",
        b"fmt ", 16, 1, 1, sample_rate, sample_rate * 2, 2, 16,
        b"data", len(pcm),
    )  # fmt: skip
    return header + pcm
