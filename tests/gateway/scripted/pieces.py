"""What scripted workers get of a recording that is cut."""

from __future__ import annotations

import struct


def samples_of(wav: bytes) -> bytes:
    """Return the samples of a float32 WAV file, as bytes of those values."""
    assert wav.startswith(b"RIFF")
    assert struct.unpack_from("<HHI", wav, 20) == (3, 1, 16_000)
    data = wav[wav.index(b"data") + 8 :]
    return bytes(int(value) for value in struct.unpack(f"<{len(data) // 4}f", data))
