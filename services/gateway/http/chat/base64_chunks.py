"""Speech on the wire: base64 that can be concatenated."""

from __future__ import annotations

import binascii

# Whole 16-bit samples and whole base64 groups, so that a concatenated stream has no "=" inside.
PCM_GROUP_BYTES = 6
# Of a format without samples.
GROUP_BYTES = 3


class Base64Chunker:
    """Cuts a stream of bytes into base64 chunks that decode one by one and concatenated."""

    def __init__(self, group_bytes: int) -> None:
        self._group_bytes = group_bytes
        self._rest = b""

    def add(self, data: bytes) -> bytes:
        """Return the base64 of as many bytes as are whole groups. It may be empty."""
        data = self._rest + data if self._rest else data
        cut = len(data) - len(data) % self._group_bytes
        self._rest = data[cut:]
        return binascii.b2a_base64(data[:cut] if self._rest else data, newline=False)

    def finish(self) -> bytes:
        """Return the last bytes, the only chunk that may be padded."""
        rest, self._rest = self._rest, b""
        return binascii.b2a_base64(rest, newline=False)
