"""Media fields: a URL, a local file, a file that was uploaded before, or base64 inside the request, which is decoded
here.

The gateway fetches and opens nothing: URLs and paths go to the preprocess service as they are.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote, urlsplit

from services.common import data_urls
from services.common.errors import BadInput, TooLarge
from services.gateway.turn.conversation import FileSource, InlineSource, MediaSource, UrlSource
from services.gateway.turn.held_media import StoredFile

# More characters are decoded in a thread.
_SMALL_CHARS = 1 << 16
_LONGEST_URL = 8192
_MEDIA_TYPE = re.compile(r"[\w.+/-]{0,100}", re.ASCII)


@dataclass(frozen=True)
class EncodedMedia:
    """The base64 in a request: `text` from `start` on. `param` is its field."""

    param: str
    text: str
    start: int = 0

    @property
    def chars(self) -> int:
        return len(self.text) - self.start


@dataclass(frozen=True)
class UploadedMedia:
    """A file that the tenant uploaded. The field `param` names it by its `id`, or by `oss://` and its `key`."""

    param: str
    key: str = ""
    id: str = ""
    # Where it was looked up before.
    found: FoundFile | None = None


@dataclass(frozen=True)
class NamedFile:
    """The part at `path` is a file of the tenant's, which the field `param` names by its id. The file that is found
    tells what the part is."""

    path: str
    param: str
    id: str
    # "" = as it was uploaded.
    filename: str = ""


class InlineMedia:
    """Collects the inline media of a request, and what was uploaded for it. Each gets the next index. `max_bytes`: of
    one. `is_draft`: the media is cut (see outline.py): it can't be decoded."""

    def __init__(self, max_bytes: int, *, takes_uploads: bool = False, is_draft: bool = False) -> None:
        self.max_bytes = max_bytes
        self.is_draft = is_draft
        self._takes_uploads = takes_uploads
        self._media: list[EncodedMedia | UploadedMedia] = []
        self.named_files: list[NamedFile] = []
        """Files whose parts are to be put in their places: see http/chat/named_files.py."""

    @property
    def encoded(self) -> list[EncodedMedia]:
        return [media for media in self._media if isinstance(media, EncodedMedia)]

    @property
    def uploaded(self) -> list[UploadedMedia]:
        return [media for media in self._media if isinstance(media, UploadedMedia)]

    def source(self, value: str, param: str, *, declared_format: str = "", bare_base64: bool = False) -> MediaSource:
        """Return the source that `value` names. With `bare_base64`, a value that is no URL is base64.

        Raise BadInput or TooLarge that names `param`.
        """
        scheme = value[:8].lower()
        if scheme.startswith(("http://", "https://")):
            _check_url(value, param)
            return UrlSource(value, declared_format)
        if scheme.startswith("data:"):
            media_type, start = _split_data_url(value, param)
            return self._inline(EncodedMedia(param, value, start), declared_format or media_type)
        if scheme.startswith("oss://") and self._takes_uploads:
            _check_url(value, param, spaces=True)
            return self.uploaded_file(UploadedMedia(param, value[len("oss://") :]), declared_format)
        if scheme.startswith("file://"):
            return FileSource(_file_path(value, param), declared_format)
        if bare_base64:
            return self._inline(EncodedMedia(param, value), declared_format)
        if value.startswith("/"):
            return FileSource(value, declared_format)
        raise BadInput(f"Invalid '{param}': it is no URL. Send an http(s) URL or a data: URL.", param=param)

    def uploaded_file(self, media: UploadedMedia, declared_format: str = "") -> InlineSource:
        self._media.append(media)
        return InlineSource(len(self._media) - 1, declared_format)

    def _inline(self, media: EncodedMedia, declared_format: str) -> MediaSource:
        if not media.chars:
            raise _empty(media.param)
        if media.chars // 4 * 3 > self.max_bytes + 2:
            raise TooLarge(
                f"Invalid '{media.param}': the media is larger than {self.max_bytes} bytes. Send less, or a URL.",
                param=media.param,
                code="media_too_large",
            )
        self._media.append(media)
        return InlineSource(len(self._media) - 1, declared_format)

    async def decode(self) -> list[bytearray]:
        """Return the bytes of what is in the request, in order. Raise BadInput that names the field with invalid
        base64."""
        return await decode_all(self.encoded)

    def with_uploaded(
        self, decoded: Sequence[bytearray], uploaded: Sequence[StoredFile]
    ) -> list[bytearray | StoredFile]:
        """Return the files by index, given what was decoded and what was uploaded, each in order."""
        left, stored = iter(decoded), iter(uploaded)
        return [next(left) if isinstance(media, EncodedMedia) else next(stored) for media in self._media]


class FoundFile(StoredFile, Protocol):
    """A file that the tenant uploaded."""

    @property
    def filename(self) -> str: ...


class RequestFiles(Protocol):
    """Opens the media of requests."""

    async def files(self, tenant: str, inline: InlineMedia) -> list[bytearray | StoredFile]:
        """Return the media by index: what is in the request decoded, what was uploaded as it is in the store.

        Raise BadInput or TooLarge that names the field, Unavailable, and what `find` raises.
        """
        ...

    async def find(self, tenant: str, media: Sequence[UploadedMedia]) -> list[FoundFile]:
        """Return the tenant's files that these name, before a byte of them is read.

        Raise NotFound that names the field where the tenant has no such file, BadInput where it is for something else,
        Unavailable.
        """
        ...


async def decode_all(encoded: Sequence[EncodedMedia]) -> list[bytearray]:
    if sum(media.chars for media in encoded) <= _SMALL_CHARS:
        return [decode_base64(media) for media in encoded]
    return await asyncio.to_thread(lambda: [decode_base64(media) for media in encoded])


def decode_base64(media: EncodedMedia) -> bytearray:
    """Decode as services.common.data_urls does. Raise BadInput."""
    try:
        decoded = data_urls.decode_base64(media.text, media.start)
    except ValueError:  # binascii.Error is a ValueError, also for a character beyond ASCII
        instead = "Send the standard or the URL-safe alphabet, and nothing else."
        if media.text.find(",", media.start) >= 0:
            instead = 'It holds a comma. Send the frames of a video as {"type": "video", "video": [URL, …]}.'
        raise BadInput(
            f"Invalid '{media.param}': the base64 is invalid. {instead}", param=media.param, code="invalid_base64"
        ) from None
    if not decoded:
        raise _empty(media.param)
    return decoded


def _empty(param: str) -> BadInput:
    return BadInput(f"Invalid '{param}': the media is empty. Send at least one byte.", param=param, code="empty_media")


def _check_url(value: str, param: str, *, spaces: bool = False) -> None:
    """`spaces`: it is a name, which may hold them."""
    if len(value) > _LONGEST_URL:
        raise BadInput(
            f"Invalid '{param}': the URL is longer than {_LONGEST_URL} characters. Send a shorter one.", param=param
        )
    if not spaces and any(c <= " " or c == "\x7f" for c in value):
        raise BadInput(
            f"Invalid '{param}': the URL contains spaces or control characters. Percent-encode them.", param=param
        )


def _split_data_url(value: str, param: str) -> tuple[str, int]:
    """Return a data: URL's media type, and where its base64 begins."""
    media_type, start = data_urls.split_data_url(value) or ("", 0)
    if not start or not _MEDIA_TYPE.fullmatch(media_type):
        raise BadInput(f"Invalid '{param}': the data: URL is malformed. Send data:<type>;base64,<data>.", param=param)
    return media_type, start


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
