"""The page's files as they are sent: what `make web` built, read once when the gateway starts."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STATIC = Path(__file__).parent / "static"
INDEX = "index.html"
ASSETS = "assets"

# Of the page alone: what the system's table says differs from machine to machine.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

ASSET_TYPES = ("image/svg+xml", "text/css", "text/javascript")
"""The media types of the files but for the index."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """`etag` is that of the content, whatever its encoding."""

    body: bytes
    gzipped: bytes
    media_type: str
    etag: str


def read_files(folder: Path = STATIC) -> Mapping[str, PageFile]:
    """Return the page's files by their names in `folder`: index.html, and the others without their folder's name.

    Raise OSError where one can't be read, KeyError where its type is not known.
    """
    paths = [folder / INDEX, *sorted((folder / ASSETS).iterdir())]
    return {path.name: _read(path) for path in paths}


def _read(path: Path) -> PageFile:
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:32]
    return PageFile(body, gzip.compress(body, 9, mtime=0), _TYPES[path.suffix], f'W/"{digest}"')
