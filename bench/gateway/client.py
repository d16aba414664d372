"""HTTP clients that cost little: they read a stream's bytes and look only at what is measured."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from bench.gateway.stages import CARD, SENT_AT

_PATH = "/v1/chat/completions"
_PROMPT = "Name three rivers of Europe that flow into the Black Sea, from west to east."
# Base64 of SENT_AT.
_STAMP_CHARS = -(-SENT_AT.size // 3) * 4
_DATA = b'"data":"'


@dataclass
class ClientTimings:
    """What a client got. `delays_s`: for each frame from its sending by the talker to its arrival here."""

    took_s: float = 0.0
    delays_s: list[float] = field(default_factory=list[float])
    # For each frame how late the talker itself was.
    late_s: list[float] = field(default_factory=list[float])


def text_body(tokens: int) -> dict[str, Any]:
    return {
        "model": CARD.name,
        "messages": [
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": _PROMPT},
        ],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def voice_body(frames: int) -> dict[str, Any]:
    speech = {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "pcm16"}}
    # The model speaks three or four tokens a second.
    return {**text_body(max(frames // 4, 2)), **speech, "talker": {"max_frames": frames}}


class Connections:
    """Connections that are kept and used again, as a load balancer's."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()

    async def is_ready(self) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"GET /health/ready HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer.startswith(b"HTTP/1.1 200")

    async def ask(self, body: dict[str, Any]) -> ClientTimings:
        """Send a streamed request and read its answer to the end. Raise RuntimeError where it is not whole."""
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        encoded, began_s = json.dumps(body).encode(), time.monotonic()
        writer.write(
            f"POST {_PATH} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {self._key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(encoded)}\r\n\r\n".encode()
            + encoded
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            writer.close()
            raise RuntimeError(f"{head!r}: {await reader.read(1000)!r}")
        answer, last = ClientTimings(), b""
        while size := int(await reader.readline(), 16):
            last = (await reader.readexactly(size + 2))[:-2]
            _note_frame(last, answer)
        await reader.readline()
        if last != b"data: [DONE]\n\n":
            raise RuntimeError(f"the stream ended with {last!r}")
        answer.took_s = time.monotonic() - began_s
        self._idle.append((reader, writer))
        return answer


def _note_frame(chunk: bytes, answer: ClientTimings) -> None:
    at = chunk.find(_DATA)
    if at < 0:
        return
    now_s = time.monotonic()
    stamp = base64.b64decode(chunk[at + len(_DATA) : at + len(_DATA) + _STAMP_CHARS])
    sent_s, due_s = SENT_AT.unpack(stamp[: SENT_AT.size])
    answer.delays_s.append(now_s - sent_s)
    answer.late_s.append(sent_s - due_s)
