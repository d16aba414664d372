"""GET /openapi.json and /docs. They need no key: they hold nothing but what the source code says, and a browser that
opens a page can send none."""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.types import Receive, Scope, Send

from services.common.http.respond import send_bytes
from services.gateway.http.api_docs.openapi import document
from services.gateway.http.api_docs.page import page, page_policy
from services.gateway.http.operation import Operation

MAX_AGE_S = 300
_HEADERS = {"cache-control": f"public, max-age={MAX_AGE_S}", "x-content-type-options": "nosniff"}


class ApiDocs:
    """Sends what `describe` has made: each time the same bytes."""

    def __init__(self) -> None:
        self._document = self._page = b""

    def describe(self, operations: Sequence[Operation]) -> None:
        described = document(operations)
        self._document = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
        self._page = page(described).encode()

    async def send_document(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_bytes(send, 200, self._document, "application/json", _HEADERS)

    async def send_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {**_HEADERS, "content-security-policy": page_policy()}
        await send_bytes(send, 200, self._page, "text/html; charset=utf-8", headers)
