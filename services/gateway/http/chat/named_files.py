"""Files that a request names by their ids: what each holds is put in the place of its part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.gateway.http.chat.files import kind_of_file, media_part, text_part
from services.gateway.inline_media import FoundFile, InlineMedia, NamedFile, RequestFiles, UploadedMedia
from services.gateway.limits import text_too_large
from services.gateway.turn.conversation import Message, Part

# How much of a text is read at a time.
_CHUNK_BYTES = 1 << 20


async def with_named_files(
    messages: Sequence[Message], inline: InlineMedia, files: RequestFiles, tenant: str, max_text_bytes: int
) -> Sequence[Message]:
    """Return the messages with their files. Text is read, and media added to `inline`.

    Raise BadInput or TooLarge that names the field, NotFound where the tenant has no such file, Unavailable. All files
    are found, and all of their texts together small enough, before any text is read.
    """
    if not inline.named_files:
        return messages
    media = [UploadedMedia(named.param, id=named.id) for named in inline.named_files]
    found = list(zip(inline.named_files, await files.find(tenant, media), strict=True))
    kinds = [kind_of_file(named.filename or file.filename, named.param) for named, file in found]
    texts = (file.size_bytes for kind, (_, file) in zip(kinds, found, strict=True) if kind == "text")
    if sum(texts) > max_text_bytes:
        raise text_too_large(max_text_bytes)
    parts = {
        named.path: await _part(kind, named, file, inline) for kind, (named, file) in zip(kinds, found, strict=True)
    }
    return [
        replace(message, parts=[parts.get(part.path, part) for part in message.parts]) if message.parts else message
        for message in messages
    ]


async def _part(kind: str, named: NamedFile, file: FoundFile, inline: InlineMedia) -> Part:
    if kind == "text":
        return text_part(b"".join([chunk async for chunk in file.chunks(_CHUNK_BYTES)]), named.param, named.path)
    source = inline.uploaded_file(UploadedMedia(named.param, id=named.id, found=file))
    return media_part(kind, source, named.path)
