"""Media fields: a URL, a local file, or base64 inside the request, which is decoded here.

The gateway fetches and opens nothing: URLs and paths go to the preprocess service as they are.
"""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from antiphon.v1 import preprocess_pb2
from services.common.errors import BadInput, TooLarge

# Decoding releases the GIL between two chunks of this size. A multiple of four characters.
_CHUNK_CHARS = 1 << 20
# More characters are decoded in a thread.
_SMALL_CHARS = 1 << 16
_LONGEST_URL = 8192
_DATA_URL = re.compile(
    r"data:(?P<type>[\w.+/-]{0,100})(?P<options>(?:;[\w.+=\" -]{1,100}){0,8}),", re.ASCII | re.IGNORECASE
)
_WHITESPACE = str.maketrans("", "", " \t\r\n")


@dataclass(frozen=True)
class EncodedMedia:
    """The base64 in a request: `text` from `start` on. `param` is its field."""

    param: str
    text: str
    start: int = 0

    @property
    def chars(self) -> int:
        return len(self.text) - self.start


class InlineMedia:
    """Collects the inline media of a request. Each gets the next index."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.encoded: list[EncodedMedia] = []

    def source(
        self, value: str, param: str, *, declared_format: str = "", bare_base64: bool = False
    ) -> preprocess_pb2.MediaSource:
        """Return the source that `value` names. With `bare_base64`, a value that is no URL is base64.

        Raise BadInput or TooLarge that names `param`.
        """
        scheme = value[:8].lower()
        if scheme.startswith(("http://", "https://")):
            _check_url(value, param)
            return preprocess_pb2.MediaSource(url=value, declared_format=declared_format)
        if scheme.startswith("data:"):
            media_type, start = _split_data_url(value, param)
            return self._inline(EncodedMedia(param, value, start), declared_format or media_type)
        if scheme.startswith("file://"):
            return preprocess_pb2.MediaSource(local_path=_file_path(value, param), declared_format=declared_format)
        if bare_base64:
            return self._inline(EncodedMedia(param, value), declared_format)
        if value.startswith("/"):
            return preprocess_pb2.MediaSource(local_path=value, declared_format=declared_format)
        raise BadInput(f"Invalid '{param}': it is no URL. Send an http(s) URL or a data: URL.", param=param)

    def _inline(self, media: EncodedMedia, declared_format: str) -> preprocess_pb2.MediaSource:
        if not media.chars:
            raise _empty(media.param)
        if media.chars // 4 * 3 > self._max_bytes + 2:
            raise TooLarge(
                f"Invalid '{media.param}': the media is larger than {self._max_bytes} bytes. Send less, or a URL.",
                param=media.param,
                code="media_too_large",
            )
        self.encoded.append(media)
        return preprocess_pb2.MediaSource(inline_index=len(self.encoded) - 1, declared_format=declared_format)

    async def decode(self) -> list[bytes]:
        """Return the bytes of each, by index. Raise BadInput that names the field with invalid base64."""
        return await decode_all(self.encoded)


async def decode_all(encoded: Sequence[EncodedMedia]) -> list[bytes]:
    if sum(media.chars for media in encoded) <= _SMALL_CHARS:
        return [decode_base64(media) for media in encoded]
    return await asyncio.to_thread(lambda: [decode_base64(media) for media in encoded])


def decode_base64(media: EncodedMedia) -> bytes:
    """Decode strictly, but skip line breaks, which command-line tools insert. Raise BadInput."""
    try:
        decoded = b"".join(_decoded_chunks(media))
    except ValueError:  # binascii.Error is a ValueError, also for a character beyond ASCII
        raise BadInput(
            f"Invalid '{media.param}': the base64 is invalid. Send the standard alphabet with padding.",
            param=media.param,
            code="invalid_base64",
        ) from None
    if not decoded:
        raise _empty(media.param)
    return decoded


def _decoded_chunks(media: EncodedMedia) -> Iterator[bytes]:
    rest, padded = "", False
    for at in range(media.start, len(media.text), _CHUNK_CHARS):
        chunk = rest + media.text[at : at + _CHUNK_CHARS]
        if any(space in chunk for space in " \t\r\n"):
            chunk = chunk.translate(_WHITESPACE)
        whole = len(chunk) // 4 * 4
        chunk, rest = chunk[:whole], chunk[whole:]
        if chunk and (padded or "=" in chunk[:-2]):
            raise ValueError("base64 goes on after its padding")
        padded = chunk.endswith("=")
        yield binascii.a2b_base64(chunk, strict_mode=True)
    if rest:
        raise ValueError("base64 ends within a group")


def _empty(param: str) -> BadInput:
    return BadInput(f"Invalid '{param}': the media is empty. Send at least one byte.", param=param, code="empty_media")


def _check_url(value: str, param: str) -> None:
    if len(value) > _LONGEST_URL:
        raise BadInput(
            f"Invalid '{param}': the URL is longer than {_LONGEST_URL} characters. Send a shorter one.", param=param
        )
    if any(c <= " " or c == "\x7f" for c in value):
        raise BadInput(
            f"Invalid '{param}': the URL contains spaces or control characters. Percent-encode them.", param=param
        )


def _split_data_url(value: str, param: str) -> tuple[str, int]:
    """Return a data: URL's media type, and where its base64 begins."""
    match = _DATA_URL.match(value)
    options = match["options"].lower().split(";") if match else []
    if match is None or options[-1] != "base64":
        raise BadInput(f"Invalid '{param}': the data: URL is malformed. Send data:<type>;base64,<data>.", param=param)
    return match["type"].lower(), match.end()


def _file_path(value: str, param: str) -> str:
    try:
        parts = urlsplit(value)
    except ValueError:  # brackets that hold no address
        parts = None
    if parts is None or parts.netloc not in ("", "localhost") or not parts.path:
        raise BadInput(
            f"Invalid '{param}': the file: URL names no path on the server. Send file:///<path>.", param=param
        )
    return unquote(parts.path)
