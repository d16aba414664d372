"""Compressed request bodies: gzip, a piece at a time, so that a small body that unpacks to a giant one costs little."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from services.common.errors import BadInput

# As much as a chunk of an uncompressed body: small enough to exist before it is counted.
_PIECE_BYTES = 1 << 16
_GZIP_WBITS = 31


def gunzip_of(encoding: bytes | None) -> Gunzip | None:
    """Return what unpacks a body with this content-encoding; None = it is not packed. Raise BadInput."""
    match (encoding or b"identity").strip().lower():
        case b"identity" | b"":
            return None
        case b"gzip" | b"x-gzip":
            return Gunzip()
        case _:
            raise BadInput(
                "The content-encoding is not supported. Send gzip, or leave it out.", code="invalid_content_encoding"
            )


class Gunzip:
    """Unpacks one gzip stream."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP_WBITS)

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what the next chunk of the stream unpacks to, at most 64 KiB at a time. Raise BadInput."""
        while True:
            if chunk and self._stream.eof:
                raise _invalid("It goes on after the end of its gzip stream.")
            try:
                piece = self._stream.decompress(chunk, _PIECE_BYTES)
            except zlib.error:
                raise _invalid("It is not gzip.") from None
            chunk = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece
            if not chunk and len(piece) < _PIECE_BYTES:  # a full piece may have left some inside
                return

    def finish(self) -> None:
        """Raise BadInput where the stream is not complete."""
        if not self._stream.eof:
            raise _invalid("It ends within its gzip stream.")


def _invalid(problem: str) -> BadInput:
    return BadInput(f"The body cannot be unpacked. {problem}", code="invalid_gzip")
