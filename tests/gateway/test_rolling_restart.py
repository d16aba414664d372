"""A gateway leaves while clients ask through a load balancer, and none of them sees an error."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc.aio
import httpx

from antiphon.v1 import gateway_pb2_grpc
from services.common.channels import open_channel
from tests.fixtures.balancer import balancing
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.checks import check_whole
from tests.gateway.scripted.stages import SPEECH, Stages, scripted_stages
from tests.gateway.test_process import KEY, start, start_message


async def ask_without_end(stages: Stages, answers: list[str]) -> None:
    """Ask over HTTP, on connections that are kept."""
    while True:
        check_whole(stages, await stages.ask(**SPEECH), spoken=True)
        answers.append("http")


async def converse_without_end(stages: Stages, channel: grpc.aio.Channel, answers: list[str]) -> None:
    """Ask over gRPC, on one channel."""
    stub = gateway_pb2_grpc.GatewayStub(channel)
    while True:
        call = stub.Converse(iter([start_message(model=INSTRUCT.name)]), metadata=KEY, timeout=HANGS_AFTER_S)
        responses = [response async for response in call]
        token_ids = [token for response in responses for token in response.text.token_ids]
        assert token_ids == stages.story.token_ids
        answers.append("grpc")


async def test_no_client_sees_that_a_gateway_leaves(store: RedisServer, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        stages = await stack.enter_async_context(scripted_stages(store.url))
        for worker in stages.workers:
            worker.script.pace_s = 0.01
        folders = [tmp_path / "0", tmp_path / "1"]
        for folder in folders:
            folder.mkdir()
        # The balancer asks five times a second, and has to see in time that one leaves: on a busy machine later.
        gateways = [await start(store, folder, shutdown_delay_s="5") for folder in folders]
        for gateway in gateways:
            stack.callback(gateway.process.wait)
            stack.callback(gateway.process.kill)
            stack.push_async_callback(gateway.channel.close)
        leaving = gateways[0]
        balancer = await stack.enter_async_context(balancing(gateways))
        for gateway in gateways:
            await wait_until(lambda gateway=gateway: balancer.is_ready(gateway))
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{balancer.http_port}", headers=dict(KEY), timeout=HANGS_AFTER_S
            )
        )
        channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{balancer.grpc_port}"))
        asked = replace(stages, gateway=replace(stages.gateway, client=client))
        answers: list[str] = []
        async with asyncio.TaskGroup() as tasks:
            load = [tasks.create_task(ask_without_end(asked, answers)) for _ in range(3)]
            load.append(tasks.create_task(converse_without_end(asked, channel, answers)))
            await wait_until(lambda: set(answers) == {"http", "grpc"})
            leaving.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(leaving.process.wait, HANGS_AFTER_S) == 0
            del answers[:]
            await wait_until(lambda: answers.count("http") > 6 and answers.count("grpc") > 2)
            for task in load:
                task.cancel()
