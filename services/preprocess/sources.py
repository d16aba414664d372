"""Reads a request's media files from inline bytes, data: URLs, http(s) and the operator's folder."""

from __future__ import annotations

import asyncio
import binascii
import errno
import hashlib
import logging
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote_to_bytes

from antiphon.v1 import preprocess_pb2
from services.common.errors import BadInput, TooLarge
from services.preprocess.cache import UrlMemory
from services.preprocess.exhaustion import unavailable
from services.preprocess.fetching.fetcher import Fetcher
from services.preprocess.limits import MediaLimits

logger = logging.getLogger(__name__)

# The errors of a wrong path. Every other error of reading a file is this machine's own.
_WRONG_PATH = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EACCES,
        errno.EPERM,
        errno.EINVAL,
    }
)


def content_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Sources:
    """Reads the bytes of MediaSource messages. A process has one."""

    def __init__(self, fetcher: Fetcher, urls: UrlMemory, limits: MediaLimits, folder: Path | None) -> None:
        self._fetcher = fetcher
        self._urls = urls
        self._limits = limits
        self._folder = folder.resolve() if folder else None

    def known_hash(self, source: preprocess_pb2.MediaSource, tenant: str) -> str | None:
        """Return the content hash of a URL that this tenant's requests fetched a short while ago."""
        return self._urls.recall(tenant, source.url) if is_remote(source) else None

    async def read(
        self, source: preprocess_pb2.MediaSource, inline: Mapping[int, bytes], tenant: str, param: str
    ) -> bytes:
        """Return the file's bytes. Raise BadInput or TooLarge naming `param`, and Unavailable."""
        which = source.WhichOneof("source")
        if which == "inline_index":
            if source.inline_index not in inline:
                raise BadInput("The part names inline bytes that were not sent.", param=param)
            data = inline[source.inline_index]
        elif which == "local_path":
            data = await asyncio.to_thread(self._read_local, source.local_path, param)
        elif which == "url" and not is_remote(source):
            data = self._decode_data_url(source.url, param)
        elif which == "url":
            data = await self._fetcher.fetch(source.url, self._limits.item_bytes, param)
            self._urls.remember(tenant, source.url, content_hash(data))
        else:
            raise BadInput("The part holds no media. Send a URL, inline bytes or a local path.", param=param)
        if len(data) > self._limits.item_bytes:
            raise _too_large(self._limits.item_bytes, param)
        return data

    def _decode_data_url(self, url: str, param: str) -> bytes:
        header, comma, payload = url[len("data:") :].partition(",")
        if not comma:
            raise BadInput("The data: URL has no comma before its data.", code="invalid_url", param=param)
        if not header.lower().endswith(";base64"):
            return unquote_to_bytes(payload)
        if len(payload) * 3 // 4 > self._limits.item_bytes + 2:
            raise _too_large(self._limits.item_bytes, param)
        try:
            return b64decode(payload, validate=True)
        except (binascii.Error, ValueError):
            raise BadInput("The data: URL does not hold valid base64.", code="invalid_url", param=param) from None

    def _read_local(self, path: str, param: str) -> bytes:
        if self._folder is None:
            raise BadInput(
                "Local files are not served here. Send the media inline or as a URL.", code="path_refused", param=param
            )
        try:
            # Symbolic links and ".." are resolved before the check.
            found = (self._folder / path.removeprefix("file://")).resolve(strict=True)
            if not found.is_relative_to(self._folder) or not found.is_file():
                raise _path_refused(param)
            if found.stat().st_size > self._limits.item_bytes:
                raise _too_large(self._limits.item_bytes, param)
            return found.read_bytes()
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno not in _WRONG_PATH:
                logger.warning("cannot read a local file: %s", error.strerror)
                raise unavailable() from None
            raise _path_refused(param) from None


def is_remote(source: preprocess_pb2.MediaSource) -> bool:
    return source.WhichOneof("source") == "url" and source.url[:5].lower() != "data:"


def _too_large(max_bytes: int, param: str) -> TooLarge:
    return TooLarge(f"The file has more than {max_bytes} bytes. Send at most {max_bytes}.", param=param)


def _path_refused(param: str) -> BadInput:
    return BadInput(
        "The path does not name a file that can be read under the allowed folder.", code="path_refused", param=param
    )
