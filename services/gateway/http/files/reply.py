"""What the endpoints of files answer."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import Field

from services.gateway.batches.records import File, Purpose
from services.gateway.http.reply import Reply


class FileObject(Reply):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="seconds since the epoch")
    expires_at: int | None = Field(description="null = it stays until it is deleted")
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    status_details: None = None


class FilesReply(Reply):
    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(Reply):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def file_object_of(file: File) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_unix_s,
        expires_at=file.expires_unix_s or None,
        filename=file.filename,
        purpose=cast("Purpose", file.purpose),
    )
