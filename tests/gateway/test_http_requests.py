"""Headers, bodies and fields that cannot be served, and the errors that name them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fixtures.wait import HANGS_AFTER_S
from tests.gateway.conftest import (
    API_KEY,
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    RunningGateway,
)
from tests.gateway.http_server import CHAT, HELLO, error_of, gateway, raw

__all__ = ["gateway"]

pytestmark = pytest.mark.asyncio(loop_scope="module")
AUDIO_PART = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


async def test_broken_json_is_400(gateway: RunningGateway) -> None:
    response = await gateway.client.post(CHAT, content=b'{"model"', headers={"content-type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_json")


async def test_another_content_type_is_400(gateway: RunningGateway) -> None:
    response = await gateway.client.post(CHAT, data={"model": "x"})
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_content_type")


async def test_a_body_over_the_limit_is_413_before_it_is_read(gateway: RunningGateway) -> None:
    answer = await raw(
        gateway,
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n"
        % (API_KEY.encode(), 10**12),
    )
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer
    assert b"request_too_large" in answer


async def test_a_body_that_grows_over_the_limit_is_413(gateway: RunningGateway) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1000 + 2):
            yield b" " * 1000

    response = await gateway.client.post(CHAT, content=chunks())
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")


async def test_a_body_that_never_ends_is_408(gateway: RunningGateway) -> None:
    answer = await raw(
        gateway,
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: 10\r\n\r\n{"
        % API_KEY.encode(),
    )
    assert answer.startswith(b"HTTP/1.1 408")


async def test_giant_headers_are_431(gateway: RunningGateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\nx-giant: ")
    await writer.drain()
    writer.write(b"a" * 40_000)
    assert (await asyncio.wait_for(reader.read(), HANGS_AFTER_S)).startswith(b"HTTP/1.1 431")
    writer.close()


def with_headers(header_bytes: int, body: bytes = b"") -> bytes:
    """Return a request whose request line and headers take `header_bytes`."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n" % API_KEY.encode()
    head += b"content-length: %d\r\nx-giant: " % len(body)
    return head + b"a" * (header_bytes - len(head) - 4) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (with_headers(40_000), b"431"),
        (with_headers(MAX_HEADER_BYTES + 1), b"431"),
        (with_headers(MAX_HEADER_BYTES), b"400"),
        (with_headers(1000, b" " * 2 * MAX_HEADER_BYTES), b"400"),
    ],
    ids=["giant", "a byte too many", "as many as may be", "a large body"],
)
async def test_the_header_limit_excludes_the_body(gateway: RunningGateway, request_: bytes, status: bytes) -> None:
    assert (await raw(gateway, request_)).startswith(b"HTTP/1.1 " + status)


async def test_the_header_limit_applies_to_each_request(gateway: RunningGateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for _ in range(3):
        writer.write(with_headers(MAX_HEADER_BYTES - 10, b"no JSON"))
        head = await asyncio.wait_for(reader.readuntil(b"}}"), HANGS_AFTER_S)
        assert head.startswith(b"HTTP/1.1 400")
    writer.close()


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": "gpt-4"}, 404, "model", "model_not_found"),
        ({}, 400, "model", "missing_required_parameter"),
        ({"model": "tiny-instruct", "temperatur": 1}, 400, "temperatur", "unknown_parameter"),
        (
            {"model": "tiny-instruct", "modalities": ["text", "audio"], "audio": {"voice": "nobody"}},
            400,
            "audio.voice",
            "invalid_voice",
        ),
        ({"model": "tiny-thinking", "modalities": ["text", "audio"]}, 400, "modalities", "invalid_value"),
        ({"model": "tiny-thinking", "enable_thinking": False}, 400, "enable_thinking", "invalid_value"),
        ({"model": "tiny-thinking", "reasoning_effort": "none"}, 400, "reasoning_effort", "invalid_value"),
        (
            {"model": "tiny-instruct", "chat_template_kwargs": {"enable_thinking": True}},
            400,
            "chat_template_kwargs.enable_thinking",
            "invalid_value",
        ),
        ({"model": "tiny-captioner"}, 400, "messages", "invalid_value"),
        ({"model": "tiny-instruct", "max_tokens": 1001}, 400, "max_tokens", "context_length_exceeded"),
        (
            {
                "model": "tiny-instruct",
                "messages": [{"role": "user", "content": [{**AUDIO_PART, "input_audio": {"data": "!"}}]}],
            },
            400,
            "messages[0].content[0].input_audio.data",
            "invalid_base64",
        ),
        (
            {
                "model": "tiny-instruct",
                "messages": [{"role": "user", "content": [{**AUDIO_PART, "input_audio": {"data": "A" * 100_000}}]}],
            },
            413,
            "messages[0].content[0].input_audio.data",
            "media_too_large",
        ),
        ({"messages": [{"role": "user", "content": "a" * 98_304}]}, 413, "messages", "text_too_large"),
        ({"metadata": [[]] * 33_000}, 413, "messages", "text_too_large"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_cannot_be_served_is_named(
    gateway: RunningGateway, fields: dict[str, Any], status: int, param: str, code: str, stream: bool
) -> None:
    response = await gateway.client.post(CHAT, json={"messages": HELLO, "stream": stream, **fields})
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
