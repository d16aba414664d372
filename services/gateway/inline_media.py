"""Where a media field points: a URL to fetch, a local file, or bytes inside the request, which are decoded here.

Nothing is fetched or opened by the gateway: URLs and paths go to the preprocess service as they are.
"""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from antiphon.v1 import preprocess_pb2
from services.common.errors import BadInput, TooLarge

# Decoded at a time, so that the event loop gets the interpreter between two pieces: a multiple of four characters.
_PIECE_CHARS = 1 << 20
# Above this many characters decoding moves to a thread.
_SMALL_CHARS = 1 << 16
_LONGEST_URL = 8192
_DATA_URL = re.compile(
    r"data:(?P<type>[\w.+/-]{0,100})(?P<options>(?:;[\w.+=\" -]{1,100}){0,8}),", re.ASCII | re.IGNORECASE
)
_WHITESPACE = str.maketrans("", "", " \t\r\n")


@dataclass(frozen=True)
class EncodedMedia:
    """Base64 that stands in a request; `param` is the field that holds it."""

    param: str
    base64: str


class InlineMedia:
    """Gathers a request's inline media while its parts are translated: each gets the next index."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.encoded: list[EncodedMedia] = []

    def source(
        self, value: str, param: str, *, declared_format: str = "", bare_base64: bool = False
    ) -> preprocess_pb2.MediaSource:
        """What `value` points to. With `bare_base64`, what is no URL is taken for base64.

        Raises BadInput or TooLarge naming `param`.
        """
        scheme = value[:8].lower()
        if scheme.startswith(("http://", "https://")):
            _check_url(value, param)
            return preprocess_pb2.MediaSource(url=value, declared_format=declared_format)
        if scheme.startswith("data:"):
            media_type, text = _split_data_url(value, param)
            return self._inline(text, param, declared_format or media_type)
        if scheme.startswith("file://"):
            return preprocess_pb2.MediaSource(local_path=_file_path(value, param), declared_format=declared_format)
        if bare_base64:
            return self._inline(value, param, declared_format)
        if value.startswith("/"):
            return preprocess_pb2.MediaSource(local_path=value, declared_format=declared_format)
        raise BadInput(f"Invalid '{param}': expected an http(s) URL or a data: URL.", param=param)

    def _inline(self, text: str, param: str, declared_format: str) -> preprocess_pb2.MediaSource:
        if not text:
            raise BadInput(f"Invalid '{param}': the media is empty.", param=param, code="empty_media")
        if len(text) // 4 * 3 > self._max_bytes + 2:
            raise TooLarge(
                f"Invalid '{param}': the media is larger than {self._max_bytes} bytes.",
                param=param,
                code="media_too_large",
            )
        self.encoded.append(EncodedMedia(param, text))
        return preprocess_pb2.MediaSource(inline_index=len(self.encoded) - 1, declared_format=declared_format)

    async def decode(self) -> list[bytes]:
        """The bytes of each, by index. Raises BadInput naming the field whose base64 is broken."""
        return await decode_all(self.encoded)


async def decode_all(encoded: Sequence[EncodedMedia]) -> list[bytes]:
    if sum(len(e.base64) for e in encoded) <= _SMALL_CHARS:
        return [decode_base64(e) for e in encoded]
    return await asyncio.to_thread(lambda: [decode_base64(e) for e in encoded])


def decode_base64(encoded: EncodedMedia) -> bytes:
    """Strict, but for line breaks, which command-line tools put in. Raises BadInput."""
    text = encoded.base64
    if not text.isascii() or any(c in text for c in " \t\r\n"):
        text = text.translate(_WHITESPACE)
    decoded = _strictly_decoded(text)
    if decoded is None:
        raise BadInput(f"Invalid '{encoded.param}': the base64 is broken.", param=encoded.param, code="invalid_base64")
    if not decoded:
        raise BadInput(f"Invalid '{encoded.param}': the media is empty.", param=encoded.param, code="empty_media")
    return decoded


def _strictly_decoded(text: str) -> bytes | None:
    if "=" in text[:-2]:
        return None
    pieces = (text[i : i + _PIECE_CHARS] for i in range(0, len(text), _PIECE_CHARS))
    try:
        return b"".join([binascii.a2b_base64(piece, strict_mode=True) for piece in pieces])
    except ValueError:  # binascii.Error is one, and so is a character beyond ASCII
        return None


def _check_url(value: str, param: str) -> None:
    if len(value) > _LONGEST_URL:
        raise BadInput(f"Invalid '{param}': the URL is longer than {_LONGEST_URL} characters.", param=param)
    if any(c <= " " or c == "\x7f" for c in value):
        raise BadInput(f"Invalid '{param}': the URL holds spaces or control characters.", param=param)


def _split_data_url(value: str, param: str) -> tuple[str, str]:
    """(media type, base64) of a data: URL."""
    match = _DATA_URL.match(value)
    options = match["options"].lower().split(";") if match else []
    if match is None or options[-1] != "base64":
        raise BadInput(f"Invalid '{param}': a data: URL must have the form data:<type>;base64,<data>.", param=param)
    return match["type"].lower(), value[match.end() :]


def _file_path(value: str, param: str) -> str:
    parts = urlsplit(value)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise BadInput(f"Invalid '{param}': a file: URL must name a path on the server.", param=param)
    return unquote(parts.path)
