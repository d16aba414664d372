"""GET / and /assets/{name}: the page to talk to the models. It needs no key: its files are the same for all. What it
asks the API for needs one as ever."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from services.common.http.respond import header, send_bytes, send_start
from services.gateway.http.page.files import INDEX, PageFile, read_files
from services.gateway.http.page.headers import PAGE_HEADERS

_YEAR_S = 365 * 86_400
# A file's name holds a hash of its content, but for the index.
_CACHED = {"cache-control": f"public, max-age={_YEAR_S}, immutable"}
_CHECKED = {"cache-control": "no-cache"}


class Page:
    """Sends files from memory. Raise OSError where they can't be read."""

    def __init__(self) -> None:
        self._files = read_files()

    async def send_index(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send_file(scope, send, self._files[INDEX], _CHECKED)

    async def send_asset(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"]
        if name == INDEX or name not in self._files:
            raise HTTPException(404)  # answered as every URL that is not served
        await _send_file(scope, send, self._files[name], _CACHED)


async def _send_file(scope: Scope, send: Send, file: PageFile, caching: Mapping[str, str]) -> None:
    headers = {**PAGE_HEADERS, **caching, "etag": file.etag, "vary": "accept-encoding"}
    if _has_it(scope, file):
        await send_start(send, 304, headers)
        await send({"type": "http.response.body", "body": b""})
    elif b"gzip" in (header(scope, b"accept-encoding") or b""):
        await send_bytes(send, 200, file.gzipped, file.media_type, {**headers, "content-encoding": "gzip"})
    else:
        await send_bytes(send, 200, file.body, file.media_type, headers)


def _has_it(scope: Scope, file: PageFile) -> bool:
    """Return whether the client says that it has this content (If-None-Match, compared weakly)."""
    known = (header(scope, b"if-none-match") or b"").decode("latin-1").split(",")
    return file.etag.removeprefix("W/") in [each.strip().removeprefix("W/") for each in known]
