"""Transcribe an hour-long recording in pieces: how long it takes, and that no process's memory grows with its length.

    python -m bench.long_recording [--minutes 60] [--json bench/results/long_recording.json]

Starts the local stack and transcribes recorded speech, repeated with pauses, once for a tenth of the time and once for
the whole: peak memory over that at rest, of the gateway, and of preprocess with its decoders and with small caches. At
the end a client leaves in the middle, and the time until nothing of its request is left.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile

from bench.machine import machine
from bench.report import arguments_parser, report
from services.local.options import add_stack_arguments, read_options
from services.local.stack import LocalStack
from tests.fixtures.processes import descendants
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.sounds import said

RATE = 24_000
PAUSE_S = 0.7
# So many tokens of a piece: the tiny checkpoint never ends by itself.
MAX_TOKENS = "24"
# The caches of preprocess would fill up to their bounds: here they are full from the start.
SETTINGS = ("preprocess.sound_bytes=8388608", "preprocess.feature_bytes=67108864")
MIB = 1 << 20
_LOOK_EVERY_S = 0.1
IDLE = ("antiphon_thinker_running_requests ", "antiphon_thinker_waiting_requests ", "antiphon_gateway_spill_bytes ")
"""Gauges that are 0 once nothing of a request is left."""


@dataclass
class Peaks:
    """The most that each service took over what it had at first, bytes of private memory."""

    base: dict[str, int]
    grown: dict[str, int] = field(default_factory=dict[str, int])

    def look(self, stack: LocalStack) -> None:
        for service, taken in memory_of(stack).items():
            self.grown[service] = max(self.grown.get(service, 0), taken - self.base.get(service, 0))


def memory_of(stack: LocalStack) -> dict[str, int]:
    """Return the private memory of the gateway and of preprocess, each with all its processes."""
    found: dict[str, int] = {}
    for process in stack.processes:
        name = process.spec.name.partition("-")[0]
        if name in ("gateway", "preprocess") and process.pid is not None:
            found[name] = sum(map(_private_bytes, (process.pid, *descendants(process.pid))))
    return found


def _private_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Dirty:", "Shared_Dirty:")))


@contextmanager
def watched(stack: LocalStack) -> Generator[Peaks]:
    peaks = Peaks(memory_of(stack))

    async def look() -> None:
        while True:
            await asyncio.to_thread(peaks.look, stack)
            await asyncio.sleep(_LOOK_EVERY_S)

    looking = asyncio.create_task(look(), name="watch memory")
    try:
        yield peaks
    finally:
        looking.cancel()


def recording(minutes: float) -> bytes:
    """Return prompts that a person said, with pauses between them, as mp3."""
    pause = np.zeros(round(PAUSE_S * RATE), np.float32)
    names = ("conf-getpin", "vm-intro", "demo-congrats", "agent-pass", "queue-thankyou")
    once = np.concatenate([part for name in names for part in (_spoken(name), pause)])
    times = -(-round(minutes * 60 * RATE) // once.size)
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", RATE, 1, format="MP3", subtype="MPEG_LAYER_III") as file:
        left = round(minutes * 60 * RATE)
        for _ in range(times):
            file.write(once[:left])
            left -= once.size
    return out.getvalue()


def _spoken(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(said(name), "<i2").astype(np.float32) / np.float32(32768)


async def events_of(http: httpx.AsyncClient, data: bytes) -> AsyncGenerator[dict[str, Any]]:
    fields = {"stream": "true", "chunking_strategy": "auto", "max_tokens": MAX_TOKENS}
    files = {"file": ("recording.mp3", data, "audio/mpeg")}
    async with http.stream("POST", "/v1/audio/transcriptions", data=fields, files=files) as answer:
        if answer.status_code != 200:
            await answer.aread()
            answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


async def transcribe(stack: LocalStack, http: httpx.AsyncClient, data: bytes) -> dict[str, Any]:
    """Return the figures of one recording."""
    began_s, first_s, progress = time.monotonic(), 0.0, list[dict[str, Any]]()
    done: dict[str, Any] = {}
    with watched(stack) as peaks:
        async with aclosing(events_of(http, data)) as events:
            async for event in events:
                if event["type"] == "antiphon.progress":
                    progress.append(event)
                if event["type"] == "transcript.text.delta" and not first_s:
                    first_s = time.monotonic() - began_s
                if event["type"] == "transcript.text.done":
                    done = event
    return {
        "file_mb": round(len(data) / 1e6, 1),
        "recording_s": progress[-1]["recording_s"],
        "transcribed_s": progress[-1]["transcribed_s"],
        "pieces": len(progress),
        "first_text_s": round(first_s, 2),
        "seconds": round(time.monotonic() - began_s, 1),
        "audio_tokens": done["usage"]["input_token_details"]["audio_tokens"],
        "grown_mib": {name: round(grown / MIB, 1) for name, grown in peaks.grown.items()},
    }


async def leave(stack: LocalStack, http: httpx.AsyncClient, data: bytes) -> float:
    """Leave after the first piece. Return the seconds until no stage works for the request any more."""
    async with aclosing(events_of(http, data)) as events:
        async for event in events:
            if event["type"] == "antiphon.progress":
                break
    began_s = time.monotonic()
    await wait_until(lambda: asyncio.to_thread(_is_idle, stack))
    return round(time.monotonic() - began_s, 2)


def _is_idle(stack: LocalStack) -> bool:
    lines: list[str] = []
    for process in stack.processes:
        if process.ports and "metrics" in process.ports:
            text = httpx.get(f"http://127.0.0.1:{process.ports['metrics']}/metrics").text
            lines += [line for line in text.splitlines() if line.startswith(IDLE)]
    return not any(float(line.rsplit(" ", 1)[1]) for line in lines)


async def run(minutes: float) -> dict[str, Any]:
    parser = ArgumentParser()
    add_stack_arguments(parser)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ANTIPHON_")}
    given = ["--model=random", "--port=0", *(f"--set={each}" for each in SETTINGS)]
    options = read_options(parser.parse_args(given), environ)
    stack = LocalStack(options, environ)
    async with stack, httpx.AsyncClient(base_url=stack.url, timeout=None) as http:  # noqa: S113  # it takes what it takes
        await transcribe(stack, http, recording(0.5))  # what is made once is there
        short = await transcribe(stack, http, recording(minutes / 10))
        long = await transcribe(stack, http, recording(minutes))
        return {"short": short, "long": long, "idle_after_leaving_s": await leave(stack, http, recording(minutes))}


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the long recording (default %(default)g)")
    given = parser.parse_args()
    figures = asyncio.run(run(given.minutes))
    command = f"python -m bench.long_recording --minutes {given.minutes:g}"
    report({"command": command, "machine": machine(), **figures}, given.json)
    long = figures["long"]
    sys.exit(0 if abs(long["transcribed_s"] - long["recording_s"]) < 0.001 else 1)


if __name__ == "__main__":
    main()
