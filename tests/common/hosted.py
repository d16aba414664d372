"""A service on a real server, in the process of its test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from antiphon.v1 import common_pb2, thinker_pb2_grpc
from services.common.channels import open_channel
from services.common.server import ServiceHost
from services.common.settings import ServiceSettings
from services.common.tensors.store import BlobStore
from services.common.tensors.transfer import serve_blob

NAME = "antiphon.v1.Thinker"


class Owner(thinker_pb2_grpc.ThinkerServicer):
    """Serves Fetch and Release from a real store. Release raises `refusal` if it is set."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.refusal: Exception | None = None
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.left_by_its_own_task: bool | None = None

    async def Fetch(self, request: common_pb2.FetchRequest, context: Any) -> AsyncIterator[common_pb2.FetchResponse]:
        if request.key == "slow":
            self.entered.set()
            await self.go_on.wait()
        serving = asyncio.current_task()
        try:
            async for response in serve_blob(self.store, request):
                self.entered.set()
                yield response
        finally:
            self.left_by_its_own_task = asyncio.current_task() is serving

    async def Release(self, request: common_pb2.ReleaseRequest, context: Any) -> common_pb2.ReleaseResponse:
        if self.refusal is not None:
            raise self.refusal
        self.store.release(request.request_id)
        return common_pb2.ReleaseResponse()


Hosted = tuple[ServiceHost, Owner, grpc.aio.Channel]


@asynccontextmanager
async def hosted(
    ready_file: Path | None = None, drain_s: float = 5, shutdown_delay_s: float = 0
) -> AsyncGenerator[Hosted]:
    settings = ServiceSettings(redis_url="redis://127.0.0.1:1", ready_file=ready_file, drain_s=drain_s)
    owner = Owner(BlobStore(64 << 20))  # pyright: ignore[reportAbstractUsage]  # Generate is not called
    async with ServiceHost(settings, NAME, shutdown_delay_s=shutdown_delay_s) as host:
        thinker_pb2_grpc.add_ThinkerServicer_to_server(owner, host.server)
        await host.start()
        async with open_channel(host.address) as channel:
            yield host, owner, channel


async def status(channel: grpc.aio.Channel, name: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status
