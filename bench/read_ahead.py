"""Measure what a listener waits for after a long utterance, with the thinker reading ahead and without.

    python -m bench.read_ahead [--seconds 4,20,40] [--rounds 7] [--json bench/results/read_ahead.json]

A client of the local stack speaks over /v1/realtime (push-to-talk, noise that nobody has said before), and then asks
for an answer in text. A wait is the time from the commit to the first text. The audio comes a second at a time, and
the turn ends when nothing is read ahead any more, as it would in a conversation. A second stack does not read ahead
(ANTIPHON_REALTIME_PREFILL=false); both take turns. Figures are medians over rounds, the first of which is a warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import numpy as np
import openai

from bench.machine import machine
from bench.report import arguments_parser, report
from services.gateway.realtime.conversation import SAMPLE_RATE
from services.local.options import add_stack_arguments, read_options
from services.local.stack import LocalStack
from tests.e2e.idle import busy_slots

API_KEY = "sk-bench"
Ask = Callable[[bytes], Awaitable[tuple[float, int]]]


def utterance(seconds: float, seed: int) -> bytes:
    """Return noise whose loudest moment is its first second."""
    samples = np.random.default_rng(seed).normal(0, 1500, int(seconds * SAMPLE_RATE))
    samples[:SAMPLE_RATE] *= 4
    return samples.clip(-32_768, 32_767).astype("<i2").tobytes()


async def idle(metrics_url: str) -> None:
    """Return once no slot is busy and no ticket waits."""
    while await busy_slots(metrics_url):  # noqa: ASYNC110  # they are polled
        await asyncio.sleep(0.05)


async def turn(client: openai.AsyncOpenAI, model: str, pcm: bytes, metrics_url: str) -> tuple[float, int]:
    """Return the seconds to the first text, and the prompt tokens that were in the cache."""
    async with client.realtime.connect(model=model) as connection:
        session: Any = {
            "type": "realtime",
            "output_modalities": ["text"],
            "audio": {"input": {"turn_detection": None}},
            "max_output_tokens": 4,
        }
        await connection.session.update(session=session)
        for at in range(0, len(pcm), 2 * SAMPLE_RATE):
            piece = base64.b64encode(pcm[at : at + 2 * SAMPLE_RATE]).decode()
            await connection.input_audio_buffer.append(audio=piece)
            if (at // (2 * SAMPLE_RATE)) % 8 == 0:
                await idle(metrics_url)
        await idle(metrics_url)
        began_s = time.perf_counter()
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        first_s = 0.0
        async for event in connection:
            if event.type == "error":
                raise RuntimeError(event.error.message)
            if event.type == "response.output_text.delta" and not first_s:
                first_s = time.perf_counter() - began_s
            if event.type == "response.done":
                usage: Any = event.response.usage
                return first_s, usage.input_token_details.cached_tokens
    raise RuntimeError("the connection ended before the response")


@asynccontextmanager
async def running_stack(folder: str, *, reads_ahead: bool) -> AsyncGenerator[Ask]:
    """Run a stack of its own, and return what says an utterance to it."""
    parser = argparse.ArgumentParser()
    add_stack_arguments(parser)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ANTIPHON_")}
    environ["API_KEY"] = API_KEY
    given = ["--model", "random", "--port", "0", "--log-dir", folder]
    given += ["--set", f"gateway.realtime_prefill={str(reads_ahead).lower()}"]
    options = read_options(parser.parse_args(given), environ)
    async with (
        LocalStack(options, environ) as stack,
        openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=API_KEY) as client,
    ):
        yield lambda pcm: turn(client, options.served_name, pcm, stack.metrics_url)


async def measure(lengths_s: list[float], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return {"4 s": {"without" | "reads_ahead": figures}}."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        async with (
            running_stack(first, reads_ahead=False) as without,
            running_stack(second, reads_ahead=True) as with_it,
        ):
            sides = {"without": without, "reads_ahead": with_it}
            figures: dict[str, dict[str, dict[str, float]]] = {}
            for seconds in lengths_s:
                turns: dict[str, list[tuple[float, int]]] = {name: [] for name in sides}
                for number in range(rounds + 1):
                    pcm = utterance(seconds, 1000 * number + int(seconds))
                    for name in sorted(sides, reverse=number % 2 == 0):
                        turns[name].append(await sides[name](pcm))
                figures[f"{seconds:g} s"] = {name: middle(measured[1:]) for name, measured in turns.items()}
            return figures


def middle(turns: list[tuple[float, int]]) -> dict[str, float]:
    waits, cached = zip(*turns, strict=True)
    return {"first_text_ms": round(1000 * median(waits), 1), "cached_tokens": median(cached)}


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", default="4,20,40", help="lengths of the utterances (default 4,20,40)")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    lengths_s = [float(each) for each in arguments.seconds.split(",")]
    figures = asyncio.run(measure(lengths_s, arguments.rounds))
    report({"machine": machine(), "rounds": arguments.rounds, **figures}, arguments.json)


if __name__ == "__main__":
    main()
