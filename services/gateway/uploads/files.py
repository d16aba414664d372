"""Files that DashScope's clients uploaded, by the names that their `oss://` URLs have."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.common.errors import Gone, NotFound, TooLarge
from services.gateway.batches.object_store import ObjectStore, file_object
from services.gateway.batches.records import USER_DATA, File, Records
from services.gateway.inline_media import InlineMedia, RequestFiles, UploadedMedia
from services.gateway.turn.held_media import StoredFile

ROOT = "dashscope-instant"
"""What all names begin with, as DashScope's do."""
_KEY = re.compile(ROOT + r"/([0-9a-f]{32})/([^/]{1,255})", re.DOTALL)
_TIME_CHARS = 12
# Files of one request that are asked for at a time.
_AT_A_TIME = 16


def folder_key(folder: str) -> str:
    """Return the name that the files of a policy's folder begin with, without the slash behind it."""
    return f"{ROOT}/{folder}"


def parts_of(key: str) -> tuple[str, str] | None:
    """Return the folder and the file's own name; None = no file has this name."""
    found = _KEY.fullmatch(key)
    return (found[1], found[2]) if found else None


def file_id_of(tenant: str, key: str) -> str | None:
    """Return the id of the tenant's file with this name: what the name says decides it, so that no table of names is
    needed and no tenant can mean another's file. None = no file has this name."""
    parts = parts_of(key)
    if parts is None:
        return None
    digest = hashlib.sha256(f"{tenant}\0{key}".encode()).hexdigest()
    return f"file-{parts[0][:_TIME_CHARS]}{digest[:20]}"


class Uploads(RequestFiles):
    """Finds what requests name in the store."""

    def __init__(self, records: Records, store: ObjectStore) -> None:
        self._records = records
        self._store = store

    async def files(self, tenant: str, inline: InlineMedia) -> list[bytearray | StoredFile]:
        limit = asyncio.Semaphore(_AT_A_TIME)

        async def found(media: UploadedMedia) -> StoredFile:
            async with limit:
                return await self._found(tenant, media, inline.max_bytes)

        # A request may name a file more than once.
        named = list({media.key: media for media in inline.uploaded}.values())
        by_key: dict[str, StoredFile] = {}
        for media, file in zip(named, await asyncio.gather(*map(found, named), return_exceptions=True), strict=True):
            if isinstance(file, BaseException):
                raise file
            by_key[media.key] = file
        return inline.with_uploaded(await inline.decode(), by_key)

    async def _found(self, tenant: str, media: UploadedMedia, max_bytes: int) -> StoredFile:
        id = file_id_of(tenant, media.key)
        if id is None:
            raise _not_found(media)
        try:
            file = await self._records.file(tenant, id)
        except NotFound:
            raise _not_found(media) from None
        if file.purpose != USER_DATA:
            raise _not_found(media)
        if file.bytes > max_bytes:
            raise TooLarge(
                f"Invalid '{media.param}': the media is larger than {max_bytes} bytes. Send less.",
                param=media.param,
                code="media_too_large",
            )
        return _Uploaded(self._store, file, media)


class NoUploads(RequestFiles):
    """Where no file store is configured."""

    async def files(self, tenant: str, inline: InlineMedia) -> list[bytearray | StoredFile]:
        for media in inline.uploaded:
            raise _not_found(media, "This server keeps no uploaded files. Send a data: or http(s) URL.")
        return [*await inline.decode()]


@dataclass(frozen=True, slots=True)
class _Uploaded(StoredFile):
    store: ObjectStore
    file: File
    media: UploadedMedia

    @property
    def size_bytes(self) -> int:
        return self.file.bytes

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        for offset in range(0, self.file.bytes, chunk_bytes):
            try:
                length = min(chunk_bytes, self.file.bytes - offset)
                yield await self.store.read(file_object(self.file.id), offset, length)
            except Gone:  # it expired since it was found
                raise _not_found(self.media) from None


def _not_found(media: UploadedMedia, problem: str = "") -> NotFound:
    """Return the same error whatever the reason is: unknown, expired, or another tenant's."""
    problem = problem or "There is no such uploaded file, or it has expired. Upload it again."
    return NotFound(f"Invalid '{media.param}': {problem}", param=media.param, code="file_not_found")
