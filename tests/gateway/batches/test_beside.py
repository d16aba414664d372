"""Lines of batches beside requests of clients."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.common.queues.keys import Keyspace
from services.common.queues.tickets import QueueName
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.batches.conftest import CHAT, HELLO, batching, line
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.stages import SPEECH

NEVER_S = 3600.0


def note_batch(store: RedisServer, stage: str) -> None:
    """Let a batch have got a slot of a stage just now."""
    with store.client() as redis:
        beside = Keyspace(redis).queue_key(QueueName(stage, INSTRUCT.name), "beside")
        now_s, _ = redis.time()  # pyright: ignore[reportGeneralTypeIssues]
        redis.hset(beside, "batch", str(now_s * 1000))


async def test_beside_a_client_one_line_begins_and_the_others_once_it_left(store: RedisServer, tmp_path: Path) -> None:
    async with batching(store.url, tmp_path, batch_every_s=NEVER_S) as world:
        [thinker] = world.stages.thinker
        thinker.engine.may_step.clear()
        asking = asyncio.create_task(world.client.post(CHAT, json=HELLO))
        await wait_until(lambda: thinker.engine.inside)
        made = await world.create([line(f"line-{n}") for n in range(3)])
        await wait_until(lambda: len(thinker.engine.inside) == 2)  # the first has waited for long enough
        assert (await world.batch(made["id"]))["request_counts"]["completed"] == 0
        thinker.engine.may_step.set()
        assert (await asking).status_code == 200
        assert (await world.ended(made["id"]))["request_counts"]["completed"] == 3


async def test_a_line_that_waits_for_others_is_no_long_wait(store: RedisServer, tmp_path: Path) -> None:
    """Else it would raise an alarm each time, and more workers would not help."""
    async with batching(store.url, tmp_path, batch_every_s=NEVER_S) as world:
        [thinker] = world.stages.thinker
        thinker.engine.may_step.clear()
        asking = asyncio.create_task(world.client.post(CHAT, json=HELLO))
        await wait_until(lambda: thinker.engine.inside)
        note_batch(store, "thinker")
        made = await world.create([line("waits")])
        shown = f'{{model="{INSTRUCT.name}",stage="thinker"}}'

        async def waits() -> bool:
            return f"antiphon_queue_depth_tickets{shown} 1.0" in await world.stages.gateway.scrape()

        await wait_until(waits)
        assert f"antiphon_queue_oldest_wait_seconds{shown} 0.0" in await world.stages.gateway.scrape()
        thinker.engine.may_step.set()
        assert (await asking).status_code == 200
        assert (await world.ended(made["id"]))["request_counts"]["completed"] == 1


async def test_a_line_that_has_a_thinker_gets_a_talker_beside_others(store: RedisServer, tmp_path: Path) -> None:
    async with batching(store.url, tmp_path, batch_every_s=NEVER_S) as world:
        [talker] = world.stages.talker
        talker.engine.may_step.clear()
        body = {"model": INSTRUCT.name, "input": "hello"}
        asking = asyncio.create_task(world.client.post("/v1/audio/speech", json=body))
        await wait_until(lambda: talker.engine.inside)
        note_batch(store, "talker")
        made = await world.create([line("speaks", HELLO | SPEECH)])
        await wait_until(lambda: len(talker.engine.inside) == 2)
        talker.engine.may_step.set()
        assert (await asking).status_code == 200
        assert (await world.ended(made["id"]))["request_counts"]["completed"] == 1
