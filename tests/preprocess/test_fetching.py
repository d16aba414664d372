"""Media URLs: which ones are fetched, and which are refused."""

from __future__ import annotations

import asyncio
import ipaddress
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from services.common.errors import BadInput, TooLarge
from services.preprocess.fetching.addresses import FetchPolicy
from services.preprocess.fetching.fetcher import Fetcher
from tests.fixtures.wait import wait_until
from tests.preprocess.web_server import WebServer

PARAM = "messages[0].content[0].image_url.url"
LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"),)


@asynccontextmanager
async def serving(**policy: Any) -> AsyncGenerator[tuple[WebServer, Fetcher]]:
    """Run a server on 127.0.0.1, and a fetcher that may reach its address and port by default."""
    async with WebServer().running() as server:
        own = FetchPolicy(ports=(80, 443, server.port), networks=LOOPBACK, total_s=5)
        async with Fetcher(replace(own, **policy)) as fetcher:
            yield server, fetcher


async def refused(fetcher: Fetcher, url: str, most: int = 1 << 20) -> BadInput:
    with pytest.raises(BadInput) as caught:
        await fetcher.fetch(url, most, PARAM)
    assert caught.value.param == PARAM
    return caught.value


async def test_an_allowed_url_is_fetched_with_its_own_host_header():
    async with serving() as (server, fetcher):
        server.files["/a.png?x=1&y=%20"] = b"pixels"
        assert await fetcher.fetch(server.url("/a.png?x=1&y=%20", "localhost"), 100, PARAM) == b"pixels"
        assert f"Host: localhost:{server.port}\r\n".encode() in server.heads[0]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0", "2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "[::]"],
)
async def test_nothing_is_fetched_from_this_machine(host: str):
    async with serving(networks=()) as (server, fetcher):
        assert (await refused(fetcher, server.url("/", host))).code in ("url_refused", "media_unavailable")
        assert server.connections == 0


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "fc00::1",
        "fe80::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "fec0::1",
        "feff::1",
        "192.88.99.1",
        "::ffff:192.88.99.1",
        "64:ff9b::c058:6301",
        "2001:0:7f00:1::",
        "::",
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str):
    assert not FetchPolicy().allows(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_allowed(address: str):
    assert FetchPolicy().allows(ipaddress.ip_address(address))


def test_only_networks_that_the_operator_adds_are_allowed():
    policy = FetchPolicy(networks=(ipaddress.ip_network("10.1.0.0/16"),))
    assert policy.allows(ipaddress.ip_address("10.1.2.3"))
    assert not policy.allows(ipaddress.ip_address("10.2.2.3"))


async def test_a_port_that_is_not_allowed_is_refused():
    async with serving(ports=(80, 443)) as (server, fetcher):
        assert (await refused(fetcher, server.url("/"))).code == "url_refused"
        assert server.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_an_allowed_redirect_is_followed(status: int):
    async with serving() as (server, fetcher):
        server.redirect("/old", "/new", status)
        server.files["/new"] = b"found"
        assert await fetcher.fetch(server.url("/old"), 100, PARAM) == b"found"


async def test_a_redirect_to_a_forbidden_address_is_refused():
    async with serving() as (server, fetcher), WebServer().running("127.0.0.2", server.port) as hidden:
        hidden.files["/secret"] = b"secret"
        server.redirect("/x", hidden.url("/secret"))
        assert (await refused(fetcher, server.url("/x"))).code == "url_refused"
        assert (server.connections, hidden.connections) == (1, 0)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://127.0.0.1/", "http://user:pw@127.0.0.1/"])
async def test_a_redirect_out_of_http_is_refused(location: str):
    async with serving() as (server, fetcher):
        server.redirect("/x", location)
        assert (await refused(fetcher, server.url("/x"))).code == "invalid_url"


async def test_a_redirect_loop_ends():
    async with serving() as (server, fetcher):
        server.redirect("/x", "/x")
        assert "redirects more than 3 times" in (await refused(fetcher, server.url("/x"))).message
        assert server.connections == 4


NO_URLS = ("ftp://example.com/x", "file:///etc/passwd", "http://", "//example.com/x", "nonsense", "", "http://[::1")


@pytest.mark.parametrize("url", [*NO_URLS, "http://user:pw@example.com/", "x" * 9000])
async def test_a_url_that_is_not_http_is_refused(url: str):
    async with Fetcher(FetchPolicy()) as fetcher:
        assert (await refused(fetcher, url)).code == "invalid_url"


@pytest.mark.parametrize("url", ["http://exa mple.invalid/", "http://example.com:99999/", "http://example.com:0/"])
async def test_an_unreachable_url_is_refused(url: str):
    async with Fetcher(FetchPolicy()) as fetcher:
        assert (await refused(fetcher, url)).code in ("url_refused", "media_unavailable")


@pytest.mark.parametrize("trick", ["http://127.0.0.1:{p}\\@example.com/", "http://example.com@127.0.0.1:{p}/"])
async def test_a_url_that_two_parsers_read_differently_is_refused(trick: str):
    async with serving(networks=()) as (server, fetcher):
        await refused(fetcher, trick.format(p=server.port))
        assert server.connections == 0


async def test_a_name_that_does_not_exist_is_the_clients_error():
    async with Fetcher(FetchPolicy()) as fetcher:
        assert (await refused(fetcher, "http://no-such-host.invalid/x")).code == "media_unavailable"


async def test_a_body_over_the_limit_is_refused_by_its_length():
    async with serving() as (server, fetcher):
        server.files["/big"] = bytes(2000)
        error = await refused(fetcher, server.url("/big"), 1000)
        assert isinstance(error, TooLarge)


async def test_a_body_without_a_length_is_cut_off_at_the_limit():
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            sent += 0x10000
            await writer.drain()

    async with serving() as (server, fetcher):
        server.answers["/endless"] = endless
        assert isinstance(await refused(fetcher, server.url("/endless"), 100_000), TooLarge)
        assert sent < 50 << 20


async def test_a_slow_body_times_out():
    forever = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
        await writer.drain()
        await forever.wait()

    async with serving(total_s=0.3) as (server, fetcher):
        server.answers["/drip"] = drip
        assert "longer than 0.3 s" in (await refused(fetcher, server.url("/drip"))).message
        forever.set()


async def test_a_body_that_ends_early_is_an_error():
    async def short(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")

    async with serving() as (server, fetcher):
        server.answers["/short"] = short
        assert (await refused(fetcher, server.url("/short"))).code == "media_unavailable"


async def test_a_compressed_answer_is_refused():
    async def packed(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx")

    async with serving() as (server, fetcher):
        server.answers["/gz"] = packed
        assert (await refused(fetcher, server.url("/gz"))).code == "media_unavailable"


async def test_a_missing_file_is_the_clients_error():
    async with serving() as (server, fetcher):
        assert "404" in (await refused(fetcher, server.url("/none"))).message


async def test_a_missing_server_is_the_clients_error():
    async with serving() as (server, fetcher):
        url = server.url("/")
        async with WebServer().running() as other:
            gone = other.port
        policy = FetchPolicy(ports=(gone,), networks=LOOPBACK)
        async with Fetcher(policy) as patient:
            assert (await refused(patient, f"http://127.0.0.1:{gone}/")).code == "media_unavailable"
        assert (await refused(fetcher, url)).code == "media_unavailable"


async def test_tls_verifies_the_urls_host_at_the_checked_address():
    greeting: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting.append(await reader.read(4096))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Fetcher(FetchPolicy(ports=(port,), networks=LOOPBACK)) as fetcher:
        assert (await refused(fetcher, f"https://localhost:{port}/")).code == "media_unavailable"
    assert b"localhost" in greeting[0]


async def test_fetches_that_wait_for_memory_hold_little_themselves():
    most_bytes, fetches = 100 * 1024, 16  # for each: what was read, the parser's copy, and the rest of a connection
    enough, waiting = asyncio.Event(), 0

    async def wait(size: int) -> None:
        nonlocal waiting
        waiting += 1
        await enough.wait()

    async with serving() as (server, fetcher):
        server.files["/large"] = bytes(1 << 20)
        await fetcher.fetch(server.url("/large"), 1 << 20, PARAM)  # imports and caches
        tracemalloc.start()
        try:
            gets = [fetcher.fetch(server.url("/large"), 1 << 20, PARAM, reserve=wait) for _ in range(fetches)]
            fetching = asyncio.gather(*gets)
            await wait_until(lambda: waiting == fetches)
            held = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(True, f"*{part}*") for part in ("/asyncio/", "/anyio/", "/httpcore/", "/h11/")]
            )
        finally:
            tracemalloc.stop()
            enough.set()
        assert await fetching == [bytes(1 << 20)] * fetches
    assert sum(each.size for each in held.traces) < fetches * most_bytes
