"""Reads a request's media files from inline bytes, data: URLs, http(s) and the operator's folder."""

from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote_to_bytes

from antiphon.v1 import preprocess_pb2
from services.common.data_urls import decode_base64, split_data_url
from services.common.errors import BadInput, TooLarge
from services.preprocess.cache import UrlMemory
from services.preprocess.exhaustion import unavailable
from services.preprocess.fetching.fetcher import Fetcher
from services.preprocess.limits import MediaLimits
from services.preprocess.parts import is_remote
from services.preprocess.preparation import File, Preparation

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


_SMALL_BYTES = 1 << 18


def content_hash(data: File, tenant: str) -> str:
    """Return the name of a tenant's file in the caches. The same file has another name for each tenant: what is cached
    for one answers no other, who could tell by the time which files others have sent."""
    return hashlib.sha256(f"{len(tenant)} {tenant} {hashlib.sha256(data).hexdigest()}".encode()).hexdigest()


async def hash_content(data: File, tenant: str) -> str:
    """Return `content_hash`, off the event loop where it takes more than a moment."""
    if len(data) <= _SMALL_BYTES:
        return content_hash(data, tenant)
    return await asyncio.to_thread(content_hash, data, tenant)


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

    async def read(self, source: preprocess_pb2.MediaSource, preparation: Preparation, param: str) -> File:
        """Return the file's bytes, once the request has memory for them. It has that for its inline files.

        Raise BadInput or TooLarge naming `param`, and Unavailable.
        """
        reserve = functools.partial(preparation.reserve, param=param)
        which = source.WhichOneof("source")
        if which == "inline_index":
            if source.inline_index not in preparation.inline:
                raise BadInput("The part names inline bytes that were not sent.", param=param)
            data = preparation.inline[source.inline_index]
            preparation.spend_bytes(len(data), param)
        elif which == "local_path":
            path, size = await asyncio.to_thread(self._find_local, source.local_path, param)
            await reserve(size)
            data = await asyncio.to_thread(_read_local, path, size, param)
        elif which == "url" and not is_remote(source):
            await reserve(self._data_url_bytes(source.url, param))
            data = await asyncio.to_thread(_decode_data_url, source.url, param)
        elif which == "url":
            tenant = preparation.tenant
            data = await self._fetcher.fetch(source.url, self._limits.item_bytes, param, tenant, reserve)
            self._urls.remember(tenant, source.url, await hash_content(data, tenant))
        else:
            raise BadInput("The part holds no media. Send a URL, inline bytes or a local path.", param=param)
        if len(data) > self._limits.item_bytes:
            raise _too_large(self._limits.item_bytes, param)
        return data

    def _data_url_bytes(self, url: str, param: str) -> int:
        """Return how many bytes the data: URL holds at most."""
        encoded = split_data_url(url)
        size = (len(url) - encoded[1]) * 3 // 4 if encoded else len(_plain_data(url, param))
        if size > self._limits.item_bytes + 2:
            raise _too_large(self._limits.item_bytes, param)
        return size

    def _find_local(self, path: str, param: str) -> tuple[Path, int]:
        """Return the file that the path names, and its size in bytes."""
        if self._folder is None:
            raise BadInput(
                "Local files are not served here. Send the media inline or as a URL.", code="path_refused", param=param
            )
        with _refusing_paths(param):
            # Symbolic links and ".." are resolved before the check.
            found = (self._folder / path.removeprefix("file://")).resolve(strict=True)
            if not found.is_relative_to(self._folder) or not found.is_file():
                raise _path_refused(param)
            size = found.stat().st_size
        if size > self._limits.item_bytes:
            raise _too_large(self._limits.item_bytes, param)
        return found, size


def _read_local(path: Path, size: int, param: str) -> bytes:
    with _refusing_paths(param), path.open("rb") as file:
        return file.read(size)


@contextmanager
def _refusing_paths(param: str) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno not in _WRONG_PATH:
            logger.warning("cannot read a local file: %s", error.strerror)
            raise unavailable() from None
        raise _path_refused(param) from None


def _plain_data(url: str, param: str) -> str:
    """Return what follows a data: URL's comma."""
    _, comma, payload = url.partition(",")
    if not comma:
        raise BadInput("The data: URL has no comma before its data.", code="invalid_url", param=param)
    return payload


def _decode_data_url(url: str, param: str) -> bytes | bytearray:
    encoded = split_data_url(url)
    if encoded is None:
        return unquote_to_bytes(_plain_data(url, param))
    try:
        return decode_base64(url, encoded[1])
    except ValueError:
        raise BadInput("The data: URL does not hold valid base64.", code="invalid_url", param=param) from None


def _too_large(max_bytes: int, param: str) -> TooLarge:
    return TooLarge(f"The file has more than {max_bytes} bytes. Send at most {max_bytes}.", param=param)


def _path_refused(param: str) -> BadInput:
    return BadInput(
        "The path does not name a file that can be read under the allowed folder.", code="path_refused", param=param
    )
