"""Batches go on after the loss of each process, and while the object store is away; each line has one result."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from services.gateway import metrics
from tests.control.conftest import TOKEN
from tests.control.process import running_process
from tests.fixtures.ports import free_port
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.batches.conftest import HELLO, Batching, batching, line
from tests.gateway.scripted.stages import SPEECH, scripted_stages
from tests.gateway.test_process import start

LINES = 30


async def test_every_process_may_be_killed(store: RedisServer, tmp_path: Path) -> None:
    """The gateway that runs the lines, the control plane, Redis and a thinker, all in the middle of them."""
    port, database = free_port(), f"sqlite:///{tmp_path}/control.db"
    settings: dict[str, Any] = {
        "batches_address": f"127.0.0.1:{port}",
        "control_token": SecretStr(TOKEN),
        "object_store_url": f"file://{tmp_path}/objects",
    }
    of_process = {**settings, "control_token": TOKEN, "batch_share": "1", "batch_quiet_s": "0.05"}
    of_control = {"GRPC_PORT": str(port), "BATCH_LEASE_S": "1"}
    folders = [tmp_path / name for name in ("control-1", "control-2", "gateway-1", "gateway-2")]
    for folder in folders:
        folder.mkdir()
    with running_process(folders[0], database, **of_control) as control:
        # This gateway answers, and runs no lines.
        async with scripted_stages(store.url, slots=4, batch_concurrency=0, **settings) as stages:
            world = Batching(control, stages, tmp_path / "objects", stages.gateway.client)  # pyright: ignore[reportArgumentType]
            for thinker in stages.thinker:
                thinker.engine.may_step.clear()
            made = await world.create([line(f"line-{n}", HELLO | (SPEECH if n % 3 else {})) for n in range(LINES)])
            first = await start(store, folders[2], **of_process)
            await wait_until(lambda: all(thinker.engine.inside for thinker in stages.thinker))
            for lost in (first.process, control.process):
                lost.kill()
                await asyncio.to_thread(lost.wait)
            await first.channel.close()
            store.kill()
            store.start()
            stages.thinker[0].kill()
            with running_process(folders[1], database, **of_control):
                second = await start(store, folders[3], **of_process)
                for thinker in stages.thinker:
                    thinker.engine.may_step.set()
                await wait_until(lambda: _is_served(world, made["id"]))
                await _check_each_once(world, made["id"])
                await second.channel.close()
                second.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(second.process.wait, HANGS_AFTER_S) == 0


async def test_results_wait_while_the_object_store_is_away(store: RedisServer, tmp_path: Path) -> None:
    async with batching(store.url, tmp_path) as world:
        in_the_way = tmp_path / "objects" / "results"
        in_the_way.parent.mkdir()
        in_the_way.write_text("no folder")
        failures = _failures()
        made = await world.create([line(f"line-{n}") for n in range(LINES)])
        await wait_until(lambda: _failures() > failures + 1)
        assert (await world.batch(made["id"]))["request_counts"]["completed"] == 0
        in_the_way.unlink()
        await _check_each_once(world, made["id"])


async def _check_each_once(world: Batching, id: str) -> None:
    done = await world.ended(id)
    assert done["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    results = await world.lines_of(done["output_file_id"])
    assert Counter(each["custom_id"] for each in results) == Counter(f"line-{n}" for n in range(LINES))
    assert {each["response"]["status_code"] for each in results} == {200}


async def _is_served(world: Batching, id: str) -> bool:
    return "status" in await world.batch(id)


def _failures() -> float:
    return metrics.OBJECT_STORE_FAILURES._value.get()  # pyright: ignore[reportPrivateUsage]
