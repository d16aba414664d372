"""A whole HTTP response as one value, and the digest of the request that it answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

# They tell of the moment, or are made anew.
_NOT_KEPT = (b"x-ratelimit-", b"x-request-id", b"connection", b"date", b"retry-after")

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """`body`: None = it was not kept, being too large. `digest` is that of the request."""

    digest: str
    status: int
    headers: Headers
    body: bytes | bytearray | None

    def encoded(self) -> bytes:
        """Return a line of JSON, and the body."""
        head = {
            "digest": self.digest,
            "status": self.status,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers],
            "has_body": self.body is not None,
        }
        return b"".join((json.dumps(head).encode(), b"\n", self.body or b""))


def decoded(value: bytes) -> KeptResponse:
    end = value.index(b"\n")
    head, body = json.loads(value[:end]), value[end + 1 :]
    headers = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in head["headers"]]
    return KeptResponse(head["digest"], head["status"], headers, body if head["has_body"] else None)


def kept_headers(headers: Headers) -> Headers:
    """Return the headers that belong to the response wherever it is sent."""
    return [(name, value) for name, value in headers if not name.lower().startswith(_NOT_KEPT)]


class RequestDigest:
    """A digest of a request. Two forms (multipart/form-data) that differ in their boundary alone have the same one:
    clients draw it anew each time they send."""

    def __init__(self, path: str, boundary: bytes = b"") -> None:
        self._hash = sha256(path.encode() + b"\0")
        self._boundary = boundary
        # The end of what came, which may begin a boundary.
        self._tail = b""

    def add(self, piece: bytes) -> None:
        if not self._boundary:
            self._hash.update(piece)
            return
        *whole, rest = (self._tail + piece).split(self._boundary)
        for part in whole:
            self._hash.update(part)
            self._hash.update(b"\0boundary\0")
        keep = min(len(self._boundary) - 1, len(rest))
        self._hash.update(rest[: len(rest) - keep])
        self._tail = rest[len(rest) - keep :]

    def finished(self) -> str:
        self._hash.update(self._tail)
        self._tail = b""
        return self._hash.hexdigest()
