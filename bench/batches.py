"""Batches on the local stack: what the loss of each process costs them, and what they cost requests beside them.

    python -m bench.batches [--lines 200] [--asks 40] [--json bench/results/batches.json]

First, batches of mixed lines (text, speech in chat, speech of a text, transcriptions), --lines in all, run while each
process of the stack is killed once (SIGKILL): workers, gateway, control plane, Redis. Every line must have one result,
and none an error. Then a client asks --asks short questions one after the other: alone, and beside a batch that runs
when it begins. Lines that have slots then go on to their end, and others begin rarely (docs/batches.md); so the 95th
percentile is given of all its questions, and of those that came 2 s after the first or later. The lines that
ended meanwhile are counted: one a minute should, so more than a minute's questions show how the batch gets on. Exits
with status 1 where a result is missing, double or an error.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import math
import os
import statistics
import sys
import tempfile
import time
import wave
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from bench.machine import machine
from bench.report import arguments_parser, report
from services.local.options import add_stack_arguments, read_options
from services.local.plan import StackOptions
from services.local.stack import LocalStack

_KINDS = ("/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions")
_OVER = frozenset({"completed", "failed", "expired", "cancelled"})
_LOOK_S = 0.2
_SOUND_S = 0.5
_STEADY_S = 1.0
# Of an answer in a batch: short enough for two cores, long enough that kills meet answers.
_TOKENS = 48
# Of a batch that runs, and not just its first line.
_UNDER_WAY = 8
# Longer than lines take that have slots.
_ENDING_S = 2.0


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--lines", type=int, default=200, help="lines in all (default %(default)s)")
    parser.add_argument("--asks", type=int, default=40, help="questions of the client (default %(default)s)")
    given = parser.parse_args()
    result = asyncio.run(_run(given.lines, given.asks))
    report({"machine": machine(), **result}, given.json)
    sys.exit(0 if result["results_once"] == given.lines and not result["errors"] else 1)


async def _run(lines: int, asks: int) -> dict[str, Any]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    with tempfile.TemporaryDirectory() as folder:
        options = _options(Path(folder), environ)
        async with (
            LocalStack(options, environ) as stack,
            httpx.AsyncClient(base_url=stack.url, timeout=600) as client,
        ):
            losses = await _through_losses(stack, client, options.served_name, lines)
            return {**losses, **await _beside_others(client, options.served_name, asks)}


def _options(folder: Path, environ: dict[str, str]) -> StackOptions:
    parser = ArgumentParser()
    add_stack_arguments(parser)
    given = ["--model=random", "--port=0", f"--log-dir={folder / 'logs'}", f"--data-dir={folder / 'data'}"]
    return read_options(parser.parse_args(given), environ)


async def _through_losses(stack: LocalStack, client: httpx.AsyncClient, model: str, lines: int) -> dict[str, Any]:
    began_s = time.monotonic()
    of_kind = {kind: _lines(kind, model, count) for kind, count in zip(_KINDS, _shares(lines), strict=True)}
    batches = [await _create(client, kind, asked) for kind, asked in of_kind.items() if asked]
    killed: list[str] = []
    for process in stack.processes:
        await _until_done(client, batches, len(killed) / len(stack.processes) * lines)
        if await _done(client, batches) >= lines:
            raise RuntimeError(f"all lines were done before {process.spec.name} was killed: take more --lines")
        pid = process.pid
        process.kill()
        killed.append(process.spec.name)
        while process.pid in (None, pid) or not process.ready:  # noqa: ASYNC110  # it is another process
            await asyncio.sleep(_LOOK_S)
        print(f"{process.spec.name} was killed and is ready again", file=sys.stderr, flush=True)
        await asyncio.sleep(_STEADY_S)
    await _until_done(client, batches, lines)
    seen: Counter[str] = Counter()
    errors: list[str] = []
    for id in batches:
        batch = await _ended(client, id)
        for name in ("output_file_id", "error_file_id"):
            if batch[name]:
                content = (await client.get(f"/v1/files/{batch[name]}/content")).text
                found = [json.loads(line) for line in content.splitlines()]
                seen.update(line["custom_id"] for line in found)
                errors += [json.dumps(line)[:300] for line in found if name == "error_file_id"]
    wanted = {json.loads(line)["custom_id"] for asked in of_kind.values() for line in asked}
    return {
        "killed": killed,
        "seconds": round(time.monotonic() - began_s, 1),
        "results_once": sum(seen[id] == 1 for id in wanted),
        "errors": errors,
    }


def _shares(lines: int) -> tuple[int, int, int]:
    speech = sound = lines // 5
    return lines - speech - sound, speech, sound


def _lines(kind: str, model: str, count: int) -> list[str]:
    made: list[str] = []
    for number in range(count):
        body: dict[str, Any]
        if kind.endswith("speech"):
            body = {"model": model, "input": f"This is number {number}.", "response_format": "wav"}
        elif kind.endswith("transcriptions"):
            body = {"model": model, "file": _sound(number), "max_tokens": 12}
        else:
            content = [{"role": "user", "content": f"What is {number}?"}]
            body = {"model": model, "messages": content, "max_tokens": _TOKENS}
            if number % 4 == 0:
                body |= {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "wav"}}
        made.append(json.dumps({"custom_id": f"{kind}-{number}", "method": "POST", "url": kind, "body": body}))
    return made


def _sound(number: int) -> str:
    rate = 16_000
    samples = (round(8000 * math.sin(at * (0.05 + number / 1000))) for at in range(round(_SOUND_S * rate)))
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples))
    return base64.b64encode(data.getvalue()).decode()


async def _create(client: httpx.AsyncClient, endpoint: str, lines: Sequence[str]) -> str:
    files = {"file": ("in.jsonl", "\n".join(lines).encode())}
    uploaded = (await client.post("/v1/files", data={"purpose": "batch"}, files=files)).json()
    body = {"input_file_id": uploaded["id"], "endpoint": endpoint, "completion_window": "24h"}
    made = await client.post("/v1/batches", json=body)
    made.raise_for_status()
    return made.json()["id"]


async def _batch(client: httpx.AsyncClient, id: str) -> dict[str, Any] | None:
    """Return the batch; None while gateway or control plane are away."""
    try:
        answer = await client.get(f"/v1/batches/{id}")
    except httpx.TransportError:
        return None
    return answer.json() if answer.status_code == 200 else None


async def _done(client: httpx.AsyncClient, ids: Sequence[str]) -> int:
    found = [await _batch(client, id) for id in ids]
    return sum(b["request_counts"]["completed"] + b["request_counts"]["failed"] for b in found if b)


async def _until_done(client: httpx.AsyncClient, ids: Sequence[str], lines: float) -> None:
    while await _done(client, ids) < lines:  # noqa: ASYNC110  # it is another process that works
        await asyncio.sleep(_LOOK_S)


async def _ended(client: httpx.AsyncClient, id: str) -> dict[str, Any]:
    while (batch := await _batch(client, id)) is None or batch["status"] not in _OVER:  # noqa: ASYNC110  # as above
        await asyncio.sleep(_LOOK_S)
    return batch


async def _beside_others(client: httpx.AsyncClient, model: str, asks: int) -> dict[str, Any]:
    alone_s = await _asked(client, model, asks)
    id = await _create(client, _KINDS[0], _lines(_KINDS[0], model, 20 * asks))
    await _until_done(client, [id], _UNDER_WAY)
    before, began_s = await _done(client, [id]), time.monotonic()
    beside_s = await _asked(client, model, asks)
    meanwhile_s = time.monotonic() - began_s
    await asyncio.sleep(_STEADY_S)  # the results of a second are told together
    meanwhile = await _done(client, [id]) - before
    await client.post(f"/v1/batches/{id}/cancel")
    await _ended(client, id)
    alone = _p95([took_s for _, took_s in alone_s])
    late = [took_s for at_s, took_s in beside_s if at_s >= _ENDING_S]
    result: dict[str, Any] = {"p95_alone_s": round(alone, 3)}
    for name, some in (("beside_a_batch", [took_s for _, took_s in beside_s]), ("once_its_lines_ended", late)):
        if len(some) > 1:
            result[f"p95_{name}_s"] = round(_p95(some), 3)
            result[f"p95_{name}_grows_percent"] = round(100 * (_p95(some) / alone - 1), 1)
    return result | {"asked_beside_for_s": round(meanwhile_s, 1), "batch_lines_meanwhile": meanwhile}


async def _asked(client: httpx.AsyncClient, model: str, asks: int) -> list[tuple[float, float]]:
    """Return for each question when it was asked, in seconds since the first, and how long its answer took."""
    taken_s: list[tuple[float, float]] = []
    first_s = time.monotonic()
    for number in range(asks):
        began_s = time.monotonic()
        body = {"model": model, "messages": [{"role": "user", "content": f"Say {number}."}], "max_tokens": 16}
        (await client.post("/v1/chat/completions", json=body)).raise_for_status()
        taken_s.append((began_s - first_s, time.monotonic() - began_s))
    return taken_s


def _p95(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1]


if __name__ == "__main__":
    main()
