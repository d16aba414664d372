"""The gateway serves the page to talk to the models where it is told to: its files, their headers, and no others."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from services.gateway.http.page.files import ASSETS, STATIC
from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import API_KEY, RunningGateway, running_gateway
from tests.gateway.requests import PAGE_SCRIPT

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILES = ["/", *sorted(f"/{ASSETS}/{path.name}" for path in (STATIC / ASSETS).iterdir())]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(store: RedisServer) -> AsyncIterator[RunningGateway]:
    async with running_gateway(store.url, page=True) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stranger(gateway: RunningGateway) -> AsyncIterator[httpx.AsyncClient]:
    """A browser: it has no key while it loads a page."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60, headers={"accept-encoding": "identity"}) as client:
        yield client


async def test_every_file_is_served_without_a_key(stranger: httpx.AsyncClient) -> None:
    for path in FILES:
        answer = await stranger.get(path)
        assert answer.status_code == 200
        assert answer.content == (STATIC / (path.removeprefix("/") or "index.html")).read_bytes()
        assert answer.headers["content-type"].split(";")[0] == {
            "": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml",
        }[path.rpartition(".")[2] if "." in path else ""]  # fmt: skip
        head = await stranger.head(path)
        assert (head.content, head.headers["content-length"]) == (b"", str(len(answer.content)))


async def test_files_are_kept_by_their_hash_and_the_index_is_asked_for(stranger: httpx.AsyncClient) -> None:
    for path in FILES:
        answer = await stranger.get(path)
        assert ("immutable" in answer.headers["cache-control"]) == (path != "/")
        assert (answer.headers["cache-control"] == "no-cache") == (path == "/")
        again = await stranger.get(path, headers={"if-none-match": f'"other", {answer.headers["etag"]}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
        assert (await stranger.get(path, headers={"if-none-match": '"other"'})).status_code == 200


async def test_files_are_compressed_where_the_client_takes_it(stranger: httpx.AsyncClient) -> None:
    plain = await stranger.get("/")
    packed = await stranger.get("/", headers={"accept-encoding": "br, gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content  # httpx unpacks
    assert int(packed.headers["content-length"]) == len(gzip.compress(plain.content, 9, mtime=0))
    assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"


async def test_the_page_may_load_its_own_files_alone(stranger: httpx.AsyncClient) -> None:
    for path in FILES:
        headers = (await stranger.get(path)).headers
        policy = dict(each.split(" ", 1) for each in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert "unsafe" not in headers["content-security-policy"]
        assert "//" not in headers["content-security-policy"]
        assert "microphone=(self)" in headers["permissions-policy"]
        assert "geolocation=()" in headers["permissions-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"


async def test_the_index_names_files_that_are_there(stranger: httpx.AsyncClient) -> None:
    text = (await stranger.get("/")).text
    targets = re.findall(r'(?:href|src)="([^"]*)"', text)
    assert f"/{ASSETS}/{PAGE_SCRIPT}" in targets
    assert set(targets) <= set(FILES)
    assert "<style" not in text
    assert not re.search(r"<script[^>]*>[^<]", text), "an inline script"


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../endpoint.py", "/assets/%2e%2e/endpoint.py",
        "/assets/..%2fendpoint.py", "/assets/%2e%2e%2fheaders.py",
        "/assets/index.html", "/assets/none.js", "/assets/.", "/assets/%00", "/assets//etc/passwd",
        "/assets/..%5cendpoint.py",
    ],
)  # fmt: skip
async def test_nothing_else_is_served(gateway: RunningGateway, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {API_KEY}\r\n\r\n"
    answer = await _raw(gateway.port, request)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"unknown_url"' in answer
    assert b"There is no such URL" in answer


async def test_other_urls_need_a_key_as_ever(stranger: httpx.AsyncClient) -> None:
    for path in ("/index.html", "/assets", "/assets/", "/assets/a/b", "/v1/models", "/static/index.html"):
        assert (await stranger.get(path)).status_code == 401, path
    assert (await stranger.post("/")).status_code == 405


async def test_the_page_is_off_unless_it_is_wanted(store: RedisServer) -> None:
    async with running_gateway(store.url) as gateway:
        for path in FILES:
            answer = await gateway.client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
            assert (await gateway.client.get(path, headers={"authorization": ""})).status_code == 401
        assert await _upgrade(gateway, f"http://127.0.0.1:{gateway.port}") == (403, "origin_not_allowed")


async def test_a_page_of_this_host_may_open_a_websocket(gateway: RunningGateway) -> None:
    """No model is served, which is told once the origin was let in."""
    for scheme in ("http", "https"):  # a proxy may have ended TLS
        assert await _upgrade(gateway, f"{scheme}://127.0.0.1:{gateway.port}") != (403, "origin_not_allowed")
    for origin in ("https://evil.example", f"http://127.0.0.1:{gateway.port}.evil.example", "http://127.0.0.1", "null"):
        assert await _upgrade(gateway, origin) == (403, "origin_not_allowed")


async def test_connections_of_pages_count_as_strangers(store: RedisServer) -> None:
    """A connection that only loads the page is among those that are limited in number."""
    async with running_gateway(store.url, page=True, max_unauthenticated_connections=1) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in await _raw(gateway.port, "HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await reader.read() == b"", "the older one is closed"
        writer.close()


async def _raw(port: int, request: str) -> bytes:
    """Send a request as it is written, and return the head of the response and what came with it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n").encode())
        return await reader.read()
    finally:
        writer.close()


async def _upgrade(gateway: RunningGateway, origin: str) -> tuple[int, str]:
    """Return the status and the code of an upgrade that is refused."""
    url = gateway.url.replace("http", "ws") + "/v1/realtime"
    offered: Any = ["realtime", f"openai-insecure-api-key.{API_KEY}"]
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, origin=Origin(origin), subprotocols=offered):
            pass
    body = (refused.value.response.body or b"").decode()
    return refused.value.response.status_code, re.findall(r'"code": ?"(\w+)"', body)[0]
