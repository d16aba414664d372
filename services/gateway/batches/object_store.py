"""The object store: a folder, or anything that fsspec reaches (S3 and what speaks its protocol with s3fs).

An object is written once, under a name that no other attempt has, and nobody reads it before the control plane names
it. (A client's upload may have the name of one that is over.) So neither renaming nor locking is asked of the store,
and what a killed process left half written disturbs nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from services.common.errors import Gone, Unavailable
from services.common.settings import SettingsError
from services.gateway import metrics

CHUNK_BYTES = 4 * 1024**2
"""How much is read at a time."""
_PART_BYTES = 8 * 1024**2
"""In which S3 is written; it takes none below 5 MiB."""
_RETRY_S = 5.0
logger = logging.getLogger(__name__)


class ObjectStore:
    """Names are relative to `url`. All raise Unavailable while the store is away; reading raises Gone for an object
    that is not there. The work is done in threads."""

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        self._files, root = url_to_fs(url, **(options or {}))
        self._root = root.rstrip("/")
        self._is_local = "file" in _protocols(self._files)

    @property
    def buffer_bytes(self) -> int:
        """How much memory an object takes at most while it is written: of S3 the part that is sent and the next one."""
        return 0 if self._is_local else 2 * _PART_BYTES

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncGenerator[ObjectWriter]:
        """Write an object. It is there once the block ended without an exception."""
        writer = ObjectWriter(self._files, self._path(name), is_local=self._is_local)
        try:
            await writer.open()
            yield writer
            await writer.close()
        except BaseException:
            await asyncio.shield(writer.discard())
            raise

    async def read(self, name: str, offset: int, size_bytes: int) -> bytes:
        path = self._path(name)
        with _known_errors():
            return await asyncio.to_thread(self._files.cat_file, path, start=offset, end=offset + size_bytes)

    async def chunks(
        self, name: str, offset: int, size_bytes: int, chunk_bytes: int = CHUNK_BYTES
    ) -> AsyncGenerator[bytes]:
        """Yield so many bytes of an object, `chunk_bytes` at a time. Raise Gone where it has fewer."""
        end = offset + size_bytes
        while offset < end:
            chunk = await self.read(name, offset, min(chunk_bytes, end - offset))
            if not chunk:
                raise Gone("The object is shorter than it should be.", code="object_gone")
            offset += len(chunk)
            yield chunk

    async def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        await self._remove(self._path(name), recursive=False)

    async def remove_folder(self, name: str) -> None:
        """Remove all objects whose names begin with `name` and a slash."""
        await self._remove(self._path(name), recursive=True)

    async def _remove(self, path: str, *, recursive: bool) -> None:
        def remove() -> None:
            try:
                self._files.invalidate_cache()  # it lists what was there before others wrote
                self._files.rm(path, recursive=recursive)
            except FileNotFoundError:
                pass

        with _known_errors():
            await asyncio.to_thread(remove)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class ObjectWriter:
    """Writes one object, a step at a time, each in a thread."""

    def __init__(self, files: fsspec.AbstractFileSystem, path: str, *, is_local: bool) -> None:
        self._files = files
        self._path = path
        self._is_local = is_local
        self._file: Any = None
        self._is_whole = False
        # The last step. It ends also where whoever waits for it is cancelled.
        self._step: asyncio.Task[object] | None = None
        self.bytes = 0
        """How many were written."""

    async def open(self) -> None:
        await self._run(self._open)

    async def write(self, data: bytes) -> None:
        await self._run(self._file.write, data)
        self.bytes += len(data)

    async def close(self) -> None:
        """Have the object be there."""
        await self._run(self._close)

    async def discard(self) -> None:
        """Leave nothing of the object. Where that fails, the row that names it lets it be removed later."""
        if self._step is not None:  # it may be about to begin an upload, or to add a part to it
            await asyncio.gather(self._step, return_exceptions=True)
        await asyncio.to_thread(self._discard)

    async def _run(self, step: Callable[..., object], *arguments: bytes) -> None:
        with _known_errors():
            self._step = running = asyncio.create_task(asyncio.to_thread(step, *arguments), name="write an object")
            await asyncio.shield(running)

    def _open(self) -> None:
        if self._is_local:
            self._files.makedirs(self._path.rpartition("/")[0], exist_ok=True)
            self._file = self._files.open(self._path, "wb")
        else:
            self._file = self._files.open(self._path, "wb", block_size=_PART_BYTES)

    def _close(self) -> None:
        self._file.close()
        self._is_whole = True

    def _discard(self) -> None:
        try:
            if self._file is None:
                return
            if self._is_local:
                with suppress(OSError):  # the disk may be full
                    self._file.close()
            elif not self._is_whole:
                self._file.discard()
                self._file.closed = True  # or its end writes what is left
            if self._is_local or self._is_whole:
                self._files.rm(self._path)
        except Exception:
            logger.warning("%s could not be discarded", self._path, exc_info=True)


def open_object_store(url: str, *, endpoint: str = "", key: str = "", secret: str = "") -> ObjectStore:
    """Return the store at `url`. Raise SettingsError where it can't be reached in principle."""
    options: dict[str, Any] = {}
    if endpoint:
        options["client_kwargs"] = {"endpoint_url": endpoint}
    if key:
        options |= {"key": key, "secret": secret}
    try:
        return ObjectStore(url, options)
    except ImportError:
        raise SettingsError(
            f"ANTIPHON_OBJECT_STORE_URL: {url.partition('://')[0]}:// wants a package that is not installed;"
            " pip install 'antiphon[s3]' has s3fs"
        ) from None
    except ValueError as error:
        raise SettingsError(f"ANTIPHON_OBJECT_STORE_URL: {error}") from None


@contextmanager
def _known_errors() -> Generator[None]:
    """Raise Gone for an object that is not there, and Unavailable for whatever else a store's client raises."""
    try:
        yield
    except FileNotFoundError:
        raise Gone("The object is not in the store.", code="object_gone") from None
    except Exception as error:
        metrics.OBJECT_STORE_FAILURES.inc()
        logger.warning("the object store failed: %s: %s", type(error).__name__, error)
        raise Unavailable(
            "The object store is away at the moment.", code="object_store_unavailable", retry_after_s=_RETRY_S
        ) from error


def _protocols(files: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    found = files.protocol
    return (found,) if isinstance(found, str) else tuple(found)


def file_object(file_id: str) -> str:
    """Return the name of a file's object."""
    return f"files/{file_id}"


def results_folder(batch_id: str) -> str:
    """Return the folder of a batch's results, before they are its files."""
    return f"results/{batch_id}"
