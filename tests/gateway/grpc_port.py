"""A gateway's gRPC on a port of its own: the gateways of most tests serve HTTP alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc.aio

from antiphon.v1 import gateway_pb2_grpc
from services.common.channels import SERVER_OPTIONS
from services.common.interceptors import CallInterceptor
from tests.gateway.conftest import RunningGateway


@asynccontextmanager
async def grpc_port(gateway: RunningGateway) -> AsyncGenerator[str]:
    """Serve it inside the block. Yield "host:port"."""
    server = grpc.aio.server(interceptors=(CallInterceptor(),), options=SERVER_OPTIONS)
    gateway_pb2_grpc.add_GatewayServicer_to_server(gateway.gateway.servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
