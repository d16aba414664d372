"""Images, sounds and videos as content parts of a message."""

from __future__ import annotations

import argparse
import base64
import mimetypes
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from services.cli.client.errors import UsageError


class MediaKind(StrEnum):
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"


class Medium(NamedTuple):
    """What the user attached: a file's path, a URL that the server fetches, or a recording, which is a WAV file."""

    kind: MediaKind
    source: str | bytes


class AppendMedium(argparse.Action):
    """Append to `media`, so that --image, --audio and --video keep the order in which they were given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        kind = MediaKind((option or "").lstrip("-"))
        namespace.media = [*namespace.media, Medium(kind, str(values))]


def content_part(medium: Medium) -> dict[str, Any]:
    """Return the part of a message: a file's bytes in base64, or the URL. Raise UsageError where it cannot be read."""
    kind, source = medium
    if isinstance(source, bytes):
        return _sound_part(source, "wav")
    if source.startswith(("http://", "https://")):
        return {"type": f"{kind}_url", f"{kind}_url": {"url": source}}
    path = Path(source).expanduser()
    data = read_file(path)
    if kind is MediaKind.AUDIO:
        return _sound_part(data, path.suffix.lstrip(".").lower() or "wav")
    url = f"data:{media_type(path)};base64,{base64.b64encode(data).decode()}"
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def _sound_part(data: bytes, kind: str) -> dict[str, Any]:
    # The format is a hint: the server looks at the bytes.
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def media_type(path: Path) -> str:
    """Return what the name of a file says of its content."""
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def read_file(path: Path) -> bytes:
    """Return a file's bytes. Raise UsageError where there are none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    if not data:
        raise UsageError(f"{path} is empty.")
    return data


def user_message(text: str, media: Sequence[Medium]) -> dict[str, Any]:
    """Return a message with the media in order and the text after them, as in the model's documents.

    Raise UsageError where it would hold nothing, or a file cannot be read.
    """
    if not media:
        if not text.strip():
            raise UsageError("There is nothing to ask. Give a text, --image, --audio or --video.")
        return {"role": "user", "content": text}
    parts = [content_part(medium) for medium in media]
    return {"role": "user", "content": [*parts, *([{"type": "text", "text": text}] if text.strip() else [])]}
