"""Compare the cost of an answer with another checkout's, such as an older one: both stacks run side by side.

    python -m bench.before_after CHECKOUT [--rounds 15] [--json bench/results/before_after.json]

Each round asks both stacks the questions of bench.spine, one after the other: first one by one, then all at once. The
stack that is asked first changes from round to round. Figures are medians over rounds. The ratio is this tree's to the
other checkout's, of each round. The processor time is that of a stack's processes: it depends least on what else the
machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench import cpu
from bench.machine import machine
from bench.report import arguments_parser, report
from bench.spine import ask_stack, the_cases
from bench.timeline import Figures
from services.local.cache import default_cache_dir
from services.local.checkpoint import Kind, cached_checkpoint
from tests.fixtures.wait import wait_until

START_S = 300.0
HERE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Side:
    """A running stack: its gateway's addresses, and the process whose descendants are the stack."""

    url: str
    address: str
    pid: int
    model: str

    async def measure(self, *, together: bool) -> Figures:
        began_s, used_s = time.perf_counter(), cpu.used_s(self.pid)
        asking = [ask_stack(self.address, self.model, case) for case in the_cases()]
        timelines = list(await asyncio.gather(*asking)) if together else [await one for one in asking]
        return Figures.of(timelines, time.perf_counter() - began_s, cpu.used_s(self.pid) - used_s)


@asynccontextmanager
async def running(
    checkout: Path, model: Path, *options: str, environ: Mapping[str, str] | None = None
) -> AsyncGenerator[Side]:
    """Run the stack of a checkout inside the block. `options`: more arguments of `services.local up`."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder, "state.json")
        arguments = ("--model", model, "--port", "0", "--log-dir", folder, "--state-file", state)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.local", "up", *map(str, arguments), *options),
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": f"{checkout}:{checkout / 'protos'}", **(environ or {})},
            stdout=subprocess.DEVNULL,
        )
        try:
            await wait_until(lambda: state.exists() or process.returncode is not None, within_s=START_S)
            if process.returncode is not None:
                raise RuntimeError(f"the stack of {checkout} did not start")
            told = json.loads(await asyncio.to_thread(state.read_text))
            yield Side(told["url"], told["grpc_address"], process.pid, model.name)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def run(checkout: Path, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return {"alone" | "together": {figure: {"before", "after", "ratio"}}}."""
    model = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ))
    measured: dict[str, list[tuple[Figures, Figures]]] = {"alone": [], "together": []}
    async with AsyncExitStack() as stack:
        before = await stack.enter_async_context(running(checkout, model))
        after = await stack.enter_async_context(running(HERE, model))
        for number in range(rounds + 1):
            for how, pairs in measured.items():
                sides = (before, after) if number % 2 else (after, before)
                figures = {side.pid: await side.measure(together=how == "together") for side in sides}
                if number:  # the first round is the warm-up of both
                    pairs.append((figures[before.pid], figures[after.pid]))
    return {how: _compared(pairs) for how, pairs in measured.items()}


def _compared(pairs: list[tuple[Figures, Figures]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name in asdict(pairs[0][0]):
        values = [(getattr(before, name), getattr(after, name)) for before, after in pairs]
        found[name] = {
            "before": round(median(before for before, _ in values), 2),
            "after": round(median(after for _, after in values), 2),
            "ratio": round(median(after / before for before, after in values), 3),
        }
    return found


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("checkout", type=Path, help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    results = asyncio.run(run(given.checkout.resolve(), given.rounds))
    report({"machine": machine(), "rounds": given.rounds, **results}, given.json)


if __name__ == "__main__":
    main()
