"""Measure what one tenant's answers cost another tenant: heavy films, and streams that nobody reads.

    python -m bench.fairness [--answers 40] [--json bench/results/fairness.json]

One tenant asks for short texts and small pictures, one after the other: first alone, then beside another tenant, in
turns. A wait is the time to the first token.
- `films`: the other one always has eight films under way. Some are 64 black pictures of 7999 × 7999 pixels, which are
  refused by their headers, and some last a minute in 720p.
- `readers`: the other one has opened sixteen spoken answers and reads none of them. A tenant may hold half of a stage's
  slots here, as docs/tenants.md advises.

A 95th percentile needs an idle machine and a hundred answers; how a tenant's processor time is shared shows in medians
too.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import json
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
from PIL import Image

from bench.before_after import Side, running
from bench.machine import machine
from bench.report import arguments_parser, report
from services.local.cache import default_cache_dir
from services.local.checkpoint import Kind, cached_checkpoint
from tests.parity.media import Film, Picture

HERE = Path(__file__).parents[1]
KEYS = {"loud": "sk-bench-loud", "quiet": "sk-bench-quiet"}
FILMS, READERS = 8, 16
Parts = list[dict[str, Any]]
Disturbance = Callable[[Side], Any]


def picture(seed: int) -> Parts:
    data = base64.b64encode(Picture(128, 128, seed).file).decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    return [url, {"type": "text", "text": "What is it?"}]


def text(seed: int) -> Parts:
    return [{"type": "text", "text": f"{seed}. Tell me of the sea."}]


@cache
def black_frames() -> dict[str, Any]:
    """Return 64 pictures, whose pixels would take 12 GB."""
    file = io.BytesIO()
    Image.new("RGB", (7999, 7999)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "video", "video": [url] * 64}


@cache
def minute() -> dict[str, Any]:
    """Return a minute of film."""
    data = base64.b64encode(Film(frames=120, width=1280, height=720).file).decode()
    return {"type": "video_url", "video_url": {"url": f"data:video/x-matroska;base64,{data}"}, "max_pixels": 100_352}


def client_of(side: Side, tenant: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{side.url}/v1", api_key=KEYS[tenant], max_retries=0, timeout=600)


async def wait_ms(client: openai.AsyncOpenAI, model: str, parts: Parts) -> float:
    """Ask, and return when the first token came."""
    began_s, first_s = time.perf_counter(), 0.0
    messages: Any = [{"role": "user", "content": parts}]
    stream: Any = await client.chat.completions.create(
        model=model, messages=messages, max_tokens=8, stream=True, extra_body={"return_token_ids": True}
    )
    async for chunk in stream:
        if not first_s and any(choice.get("token_ids") for choice in chunk.model_dump()["choices"]):
            first_s = time.perf_counter()
    return 1000 * (first_s - began_s)


@asynccontextmanager
async def nothing(side: Side) -> AsyncGenerator[None]:
    yield


@asynccontextmanager
async def films(side: Side) -> AsyncGenerator[None]:
    """Always have FILMS films under way inside the block."""

    async def one(client: openai.AsyncOpenAI, part: dict[str, Any]) -> None:
        messages: Any = [{"role": "user", "content": [part]}]
        while True:
            with suppress(openai.APIStatusError):
                await client.chat.completions.create(model=side.model, messages=messages, max_tokens=8)

    async with client_of(side, "loud") as client, asyncio.TaskGroup() as tasks:
        kinds = (black_frames, minute)
        running_films = [tasks.create_task(one(client, kinds[number % 2]())) for number in range(FILMS)]
        await asyncio.sleep(3.0)  # all are in
        yield
        for film in running_films:
            film.cancel()


@asynccontextmanager
async def readers(side: Side) -> AsyncGenerator[None]:
    """Hold READERS spoken answers open inside the block, and read nothing of them."""
    asked = {
        "model": side.model,
        "messages": [{"role": "user", "content": "Go on."}],
        "modalities": ["text", "audio"],
        "audio": {"voice": "ethan", "format": "pcm16"},
        "max_tokens": 4000,
        "ignore_eos": True,
        "stream": True,
    }
    body = json.dumps(asked).encode()
    address = urlsplit(side.url)
    host, port = address.hostname or "", address.port or 0
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\nauthorization: Bearer {KEYS['loud']}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    async with AsyncExitStack() as opened:
        for _ in range(READERS):
            connection = opened.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(connection, (host, port))
            await loop.sock_sendall(connection, head + body)
        await asyncio.sleep(20.0)  # what the sockets hold is full
        yield


async def waits(side: Side, beside: Disturbance, answers: int, first_seed: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"text": [], "picture": []}
    async with beside(side), client_of(side, "quiet") as client:
        for number in range(answers):
            for kind, parts_of in (("text", text), ("picture", picture)):
                found[kind].append(await wait_ms(client, side.model, parts_of(first_seed + number)))
    return found


async def run(answers: int, rounds: int) -> dict[str, object]:
    """Return {disturbance: {kind: figures as `_compared` returns them}}."""
    model = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ))
    hashes = {tenant: [hashlib.sha256(key.encode()).hexdigest()] for tenant, key in KEYS.items()}
    settings = (f"gateway.tenant_keys={json.dumps(hashes)}", 'gateway.tenant_terms={"*": {"max_share": 0.5}}')
    results: dict[str, object] = {}
    options = [f"--set={setting}" for setting in settings]
    async with running(HERE, model, *options, environ={"API_KEY": "sk-bench-operator"}) as side:
        seed = 0
        await waits(side, nothing, answers, seed)  # the warm-up
        for name, beside in {"films": films, "readers": readers}.items():
            found: dict[str, dict[str, list[float]]] = {}
            for _ in range(rounds):
                for how, disturbance in (("alone", nothing), ("beside", beside)):
                    seed += answers
                    for kind, measured in (await waits(side, disturbance, answers, seed)).items():
                        found.setdefault(kind, {}).setdefault(how, []).extend(measured)
            results[name] = {kind: _compared(**by_how) for kind, by_how in found.items()}
    return results


def _compared(alone: list[float], beside: list[float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for percent in (50, 95):
        before, after = (float(np.percentile(measured, percent)) for measured in (alone, beside))
        name = f"p{percent}"
        found |= {f"alone_{name}_ms": before, f"beside_{name}_ms": after, f"{name}_ratio": after / before}
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--answers", type=int, default=40, help="answers of each kind a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    results = asyncio.run(run(given.answers, given.rounds))
    report({"machine": machine(), "answers": given.answers, "rounds": given.rounds, **results}, given.json)


if __name__ == "__main__":
    main()
