"""Files that requests name: by their ids, or as `oss://` URLs do, by the names that DashScope's clients gave them."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from services.common.errors import BadInput, Gone, NotFound, TooLarge
from services.gateway.batches.object_store import ObjectStore, file_object
from services.gateway.batches.records import ID, MEDIA, File, Records
from services.gateway.inline_media import FoundFile, InlineMedia, RequestFiles, UploadedMedia
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
        unknown = [media for media in inline.uploaded if media.found is None]
        looked_up = iter(await self.find(tenant, unknown))
        files = [media.found or next(looked_up) for media in inline.uploaded]
        for media, file in zip(inline.uploaded, files, strict=True):
            if file.size_bytes > inline.max_bytes:
                raise TooLarge(
                    f"Invalid '{media.param}': the media is larger than {inline.max_bytes} bytes. Send less.",
                    param=media.param,
                    code="media_too_large",
                )
        return inline.with_uploaded(await inline.decode(), files)

    async def find(self, tenant: str, media: Sequence[UploadedMedia]) -> list[FoundFile]:
        limit = asyncio.Semaphore(_AT_A_TIME)

        async def found(one: UploadedMedia) -> FoundFile:
            async with limit:
                return await self._found(tenant, one)

        named: dict[tuple[str, str], UploadedMedia] = {}
        for one in media:  # a request may name a file more than once
            named.setdefault((one.key, one.id), one)
        by_name: dict[tuple[str, str], FoundFile] = {}
        answers = await asyncio.gather(*map(found, named.values()), return_exceptions=True)
        for name, file in zip(named, answers, strict=True):
            if isinstance(file, BaseException):
                raise file
            by_name[name] = file
        return [by_name[one.key, one.id] for one in media]

    async def _found(self, tenant: str, media: UploadedMedia) -> FoundFile:
        id = media.id or file_id_of(tenant, media.key) or ""
        if not ID.fullmatch(id):
            raise _not_found(media)
        try:
            file = await self._records.file(tenant, id)
        except NotFound:
            raise _not_found(media) from None
        if file.purpose not in MEDIA:
            raise BadInput(
                f"Invalid '{media.param}': the file has the purpose '{file.purpose}'. Upload it with the purpose"
                " 'user_data'.",
                param=media.param,
                code="unsupported_file",
            )
        return _Uploaded(self._store, file, media)


class NoUploads(RequestFiles):
    """Where no file store is configured."""

    async def files(self, tenant: str, inline: InlineMedia) -> list[bytearray | StoredFile]:
        await self.find(tenant, inline.uploaded)
        return [*await inline.decode()]

    async def find(self, tenant: str, media: Sequence[UploadedMedia]) -> list[FoundFile]:
        for one in media:
            raise _not_found(one, "This server keeps no uploaded files. Send a data: or http(s) URL.")
        return []


@dataclass(frozen=True, slots=True)
class _Uploaded(FoundFile):
    store: ObjectStore
    file: File
    media: UploadedMedia

    @property
    def filename(self) -> str:
        return self.file.filename

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
