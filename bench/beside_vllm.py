"""Compare answers in text with those of vLLM's own server, on the same checkpoint and with the same engine's sizes.

    python -m bench.beside_vllm [--rounds 5] [--at-once 1,8,32] [--json bench/results/beside_vllm.json]

Both run at the same time and are asked in turn, the same questions with the same client: texts, pictures, sounds and
films that neither has seen. The side that is asked first changes from round to round. Figures are medians over rounds;
a ratio is Antiphon's to vLLM's in one round. With a tiny checkpoint on a CPU what is around the model looks larger than
it is on a GPU, where the model is the cost.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import numpy as np
import openai

from bench import cpu, vllm_server
from bench.before_after import running
from bench.machine import machine
from bench.report import arguments_parser, report
from bench.thinker_start import START_S, started
from services.local.cache import default_cache_dir
from services.local.checkpoint import Kind, cached_checkpoint
from tests.fixtures.ports import free_port
from tests.fixtures.wait import wait_until
from tests.parity.media import Film, Picture, Sound

TOKENS = 48
HERE = Path(__file__).parents[1]
Parts = list[dict[str, Any]]


@dataclass(frozen=True)
class Side:
    """A server: its OpenAI client, the name of its model, and the process whose descendants it is."""

    client: openai.AsyncOpenAI
    model: str
    pid: int


@dataclass(frozen=True)
class Figures:
    """Of one round. Times in ms; processor time of all processes of the side."""

    first_token_ms: float
    first_token_p95_ms: float
    tokens_per_s: float
    processor_ms_per_answer: float


def text(seed: int) -> Parts:
    return [_text(f"{seed}. " + "Tell me of the sea. " * 8)]


def picture(seed: int) -> Parts:
    return [_url("image", "image/png", Picture(320, 320, seed).file), _text("What is it?")]


def sound(seed: int) -> Parts:
    data = base64.b64encode(Sound(5.0, seed=seed).file).decode()
    return [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}, _text("What is it?")]


def film(seed: int) -> Parts:
    return [_url("video", "video/x-matroska", Film(frames=8, seed=seed).file), _text("What is it?")]


KINDS: Mapping[str, Callable[[int], Parts]] = {"text": text, "picture": picture, "sound": sound, "film": film}


def _text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def _url(kind: str, media_type: str, file: bytes) -> dict[str, Any]:
    data = f"data:{media_type};base64,{base64.b64encode(file).decode()}"
    return {"type": f"{kind}_url", f"{kind}_url": {"url": data}}


async def first_token_ms(side: Side, parts: Parts) -> float:
    """Ask, read the answer, and return when its first token came."""
    began_s = time.perf_counter()
    first_s = 0.0
    tokens = 0
    messages: Any = [{"role": "user", "content": parts}]
    stream = await side.client.chat.completions.create(
        model=side.model,
        messages=messages,
        max_tokens=TOKENS,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )
    async for chunk in stream:
        for choice in chunk.model_dump()["choices"]:
            tokens += len(choice.get("token_ids") or [])
        if tokens and not first_s:
            first_s = time.perf_counter()
    if tokens != TOKENS:
        raise RuntimeError(f"{side.model} answered with {tokens} tokens")
    return 1000 * (first_s - began_s)


async def measure(side: Side, questions: Sequence[Parts]) -> Figures:
    """Ask all questions at once."""
    began_s, used_s = time.perf_counter(), cpu.used_s(side.pid)
    firsts = await asyncio.gather(*(first_token_ms(side, parts) for parts in questions))
    wall_s, processor_s = time.perf_counter() - began_s, cpu.used_s(side.pid) - used_s
    return Figures(
        first_token_ms=median(firsts),
        first_token_p95_ms=float(np.percentile(firsts, 95)),
        tokens_per_s=TOKENS * len(questions) / wall_s,
        processor_ms_per_answer=1000 * processor_s / len(questions),
    )


@asynccontextmanager
async def vllm(model: Path, most: int) -> AsyncGenerator[Side]:
    """Run vLLM's server inside the block."""
    port = free_port()
    arguments = vllm_server.arguments(model, port, max_num_seqs=str(most))
    async with started({}, vllm_server.MODULE, *arguments) as process:
        await wait_until(lambda: asyncio.to_thread(vllm_server.answers, port), within_s=START_S)
        async with _client(f"http://127.0.0.1:{port}") as client:
            yield Side(client, str(model), process.pid)


@asynccontextmanager
async def antiphon(model: Path, most: int) -> AsyncGenerator[Side]:
    """Run the local stack inside the block."""
    sizes = (f"thinker.slots={most}", f"thinker.max_num_seqs={most}")
    async with running(HERE, model, *(f"--set={size}" for size in sizes)) as stack, _client(stack.url) as client:
        yield Side(client, stack.model, stack.pid)


def _client(url: str) -> openai.AsyncOpenAI:
    # vLLM's server closes a connection that was idle for 5 s, which a client may be about to use again.
    limits = httpx2.Limits(max_connections=1000, keepalive_expiry=2.0)
    http_client = openai.DefaultAsyncHttpxClient(limits=limits, timeout=600)
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http_client)


async def run(rounds: int, at_once: Sequence[int]) -> dict[str, dict[str, object]]:
    """Return {kind: {requests at once: {figure: {"antiphon", "vllm", "ratio"}}}}."""
    model = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ))
    results: dict[str, dict[str, object]] = {}
    async with AsyncExitStack() as stack:
        sides = (
            await stack.enter_async_context(antiphon(model, max(at_once))),
            await stack.enter_async_context(vllm(model, max(at_once))),
        )
        seed = 0
        for kind, parts_of in KINDS.items():
            for count in at_once:
                measured: list[tuple[Figures, Figures]] = []
                for number in range(rounds + 1):
                    questions = [parts_of(seed + each) for each in range(count)]
                    seed += count
                    order = sides if number % 2 else sides[::-1]
                    found = {side.pid: await measure(side, questions) for side in order}
                    if number:  # the first round is the warm-up of both
                        measured.append((found[sides[0].pid], found[sides[1].pid]))
                results.setdefault(kind, {})[str(count)] = _compared(measured)
    return results


def _compared(measured: Sequence[tuple[Figures, Figures]]) -> dict[str, dict[str, float]]:
    compared: dict[str, dict[str, float]] = {}
    for name in Figures.__dataclass_fields__:
        values = [(getattr(ours, name), getattr(theirs, name)) for ours, theirs in measured]
        compared[name] = {
            "antiphon": round(median(ours for ours, _ in values), 1),
            "vllm": round(median(theirs for _, theirs in values), 1),
            "ratio": round(median(ours / theirs for ours, theirs in values), 2),
        }
    return compared


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", default="1,8,32", help="requests at a time (default %(default)s)")
    given = parser.parse_args()
    results = asyncio.run(run(given.rounds, [int(count) for count in given.at_once.split(",")]))
    report({"machine": machine(), "rounds": given.rounds, "tokens": TOKENS, **results}, given.json)


if __name__ == "__main__":
    main()
