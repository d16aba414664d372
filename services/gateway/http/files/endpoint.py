"""/v1/files: upload, list, get, content and delete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing

from starlette.types import Receive, Scope, Send

from services.common.errors import BadInput, Gone, NotFound
from services.common.http.respond import send_bytes, send_start
from services.gateway.batches.object_store import ObjectStore, file_object
from services.gateway.batches.records import BATCH, MEDIA, PURPOSES, File, Page, Records
from services.gateway.http.files.fields import file_fields_from
from services.gateway.http.files.reply import DeletedFile, FilesReply, file_object_of
from services.gateway.http.files.upload import Upload, upload_limits
from services.gateway.http.form import read_form
from services.gateway.http.query import after_of, id_of, is_oldest_first, limit_of, query_of
from services.gateway.http.reply import Reply
from services.gateway.http.respond import while_connected
from services.gateway.limits import RequestLimits
from services.gateway.memory import GatewayMemory, RequestMemory
from services.gateway.turn.held_media import SMALL_BYTES

FILE = "file"
MAX_LIMIT = 10_000
# Of a file that is sent: a client that reads slowly holds one piece, and another one in its connection's buffer.
PIECE_BYTES = 1 << 20
_PIECES = 2


class CreateFile:
    """POST /v1/files. The file goes into the object store as it arrives."""

    def __init__(
        self,
        records: Records,
        store: ObjectStore,
        limits: RequestLimits,
        memory: GatewayMemory,
        max_file_bytes: int,
    ) -> None:
        self._records = records
        self._store = store
        self._memory = memory
        self._limits = upload_limits(limits, max_file_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant = scope["state"]["principal"].tenant
        async with AsyncExitStack() as stack, self._memory.request(tenant) as memory:
            upload = _TenantFile(tenant, self._records, self._store, self._memory, stack)
            try:
                form = await read_form(scope, receive, self._limits, memory, file_field=FILE, sink=upload)
                fields = file_fields_from(form.fields)
                upload.check(FILE, is_there=form.file is not None)
                file = await upload.end(fields.seconds or 0, fields.purpose)
            except BaseException as error:
                await asyncio.shield(upload.abandon(error))
                raise
        await _send(send, file_object_of(file))


class _TenantFile(Upload):
    def __init__(
        self, tenant: str, records: Records, store: ObjectStore, memory: GatewayMemory, stack: AsyncExitStack
    ) -> None:
        super().__init__(records, store, memory, stack)
        self._tenant = tenant

    async def begin(self, filename: str, fields: Mapping[str, Sequence[str]]) -> None:
        """A purpose that stands behind the file in the form, or is wrong, is read at the end."""
        given = fields.get("purpose", ())
        await self.begin_file(self._tenant, filename, given[0] if given and given[0] in MEDIA else BATCH)


class ListFiles:
    """GET /v1/files."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = query_of(scope, "after", "limit", "order", "purpose")
        purpose = query.get("purpose", "")
        if purpose not in ("", *PURPOSES):
            raise BadInput(f"Invalid 'purpose': it should be one of {', '.join(PURPOSES)}.", param="purpose")
        page = Page(after_of(query), limit_of(query, MAX_LIMIT, MAX_LIMIT), is_oldest_first(query))
        files, has_more = await self._records.files(scope["state"]["principal"].tenant, page, purpose)
        data = [file_object_of(file) for file in files]
        reply = FilesReply(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=has_more,
        )
        await _send(send, reply)


class OneFile:
    """GET /v1/files/{id}."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(send, file_object_of(await _file_of(scope, self._records)))


class FileContent:
    """GET /v1/files/{id}/content."""

    def __init__(self, records: Records, store: ObjectStore, memory: GatewayMemory) -> None:
        self._records = records
        self._store = store
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = await _file_of(scope, self._records)
        async with self._memory.request(scope["state"]["principal"].tenant) as memory:
            await while_connected(receive, self._send_content(file, send, memory), f"content of {file.id}")

    async def _send_content(self, file: File, send: Send, memory: RequestMemory) -> None:
        if file.bytes > SMALL_BYTES:
            size_bytes = min(_PIECES * min(file.bytes, PIECE_BYTES), memory.total_bytes)
            await memory.take(size_bytes, most_bytes=size_bytes, what="The file")
        async with aclosing(self._store.chunks(file_object(file.id), 0, file.bytes, PIECE_BYTES)) as chunks:
            try:
                first = await anext(chunks)  # before the status is sent
            except Gone:
                raise NotFound(f"There is no file '{file.id}'.", param="file_id", code="file_not_found") from None
            await send_start(send, 200, {"content-type": "application/octet-stream", "content-length": str(file.bytes)})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            del first
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class DeleteFile:
    """DELETE /v1/files/{id}. A runner removes its bytes; `gone` is called so that it looks for them."""

    def __init__(self, records: Records, gone: Callable[[], None]) -> None:
        self._records = records
        self._gone = gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        id = id_of(scope, "file")
        await self._records.delete_file(scope["state"]["principal"].tenant, id)
        self._gone()
        await _send(send, DeletedFile(id=id))


async def _file_of(scope: Scope, records: Records) -> File:
    return await records.file(scope["state"]["principal"].tenant, id_of(scope, "file"))


async def _send(send: Send, reply: Reply) -> None:
    await send_bytes(send, 200, reply.model_dump_json().encode(), "application/json")
