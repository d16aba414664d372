"""Two tenants walk every route of gateway and control plane: neither reads or learns anything of the other's.

Whoever adds a route adds its walk to WALKS.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest
import pytest_asyncio

from antiphon.v1 import batches_pb2, control_pb2, gateway_pb2
from services.control.api.app import OPEN_PATHS
from tests.fixtures.documented import Documented
from tests.fixtures.redis import RedisServer
from tests.fixtures.redis_patience import patience_with_redis
from tests.gateway.conftest import store
from tests.isolation import control_walks, file_walks, gateway_walks, grpc_walks, realtime_walks, upload_walks
from tests.isolation.world import World, two_tenants

__all__ = ["store"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

_GATEWAY: Mapping[str, Callable[[World, str], Awaitable[None]]] = {
    "createChatCompletion": gateway_walks.turn,
    "generateMultimodal": gateway_walks.native_turn,
    "generateText": gateway_walks.native_turn,
    "createSpeech": gateway_walks.turn,
    "createTranscription": gateway_walks.turn,
    "createTranslation": gateway_walks.turn,
    "createCaption": gateway_walks.turn,
    "createResponse": gateway_walks.responses,
    "getResponse": gateway_walks.response,
    "deleteResponse": gateway_walks.response,
    "listInputItems": gateway_walks.response,
    "cancelResponse": gateway_walks.response,
    "createFile": file_walks.upload,
    "listFiles": file_walks.listed,
    "getFile": file_walks.file,
    "getFileContent": file_walks.file,
    "deleteFile": file_walks.file,
    "createBatch": file_walks.new_batch,
    "listBatches": file_walks.listed,
    "getBatch": file_walks.batch,
    "cancelBatch": file_walks.batch,
    "getUploadPolicy": upload_walks.policy,
    "postUpload": upload_walks.post,
    "listModels": gateway_walks.models,
    "getModel": gateway_walks.model,
    "listPresets": gateway_walks.same_for_all,
    "listOwnUsage": control_walks.own_usage_at_a_gateway,
    "connectRealtime": realtime_walks.realtime,
    "connectLive": realtime_walks.live,
    "connectDashScopeRealtime": realtime_walks.dashscope_realtime,
    "createRealtimeClientSecret": realtime_walks.client_secret,
    "createRealtimeCall": realtime_walks.new_call,
    "hangUpRealtimeCall": realtime_walks.call,
    "getPage": gateway_walks.same_for_all,
    "getPageFile": gateway_walks.same_for_all,
    "getHealth": gateway_walks.same_for_all,
    "getLive": gateway_walks.same_for_all,
    "getReady": gateway_walks.same_for_all,
    "getOpenapi": gateway_walks.same_for_all,
    "getDocs": gateway_walks.same_for_all,
}
_CONTROL: Mapping[str, Callable[[World, str, str], Awaitable[None]]] = {
    **{
        f"{method} /admin/v1/{path}": control_walks.of_operators
        for method, path in (
            ("POST", "organisations"), ("GET", "organisations"), ("GET", "organisations/{id}"),
            ("POST", "organisations/{id}/archive"), ("GET", "organisations/{id}/terms"),
            ("PUT", "organisations/{id}/terms"), ("POST", "organisations/{id}/projects"),
            ("GET", "organisations/{id}/projects"), ("POST", "projects/{id}/archive"), ("PUT", "projects/{id}/terms"),
            ("POST", "projects/{id}/keys"), ("GET", "keys"), ("GET", "keys/{id}"), ("POST", "keys/{id}/rotate"),
            ("POST", "keys/{id}/revoke"), ("GET", "keys/{id}/terms"), ("PUT", "keys/{id}/terms"),
            ("POST", "prices"), ("GET", "prices"), ("GET", "usage"), ("GET", "audit"),
            ("POST", "admin_keys"), ("GET", "admin_keys"), ("POST", "admin_keys/{id}/revoke"),
        )
    },
    "GET /admin/v1/projects/{id}": control_walks.of_own_project,
    "GET /admin/v1/projects/{id}/keys": control_walks.of_own_project,
    "GET /admin/v1/projects/{id}/terms": control_walks.of_own_project,
    "GET /v1/usage": control_walks.own_usage,
}  # fmt: skip
_GRPC: Mapping[str, Callable[[World, str], Awaitable[None]]] = {
    "antiphon.v1.Gateway/Converse": grpc_walks.converse,
    "antiphon.v1.Control/WatchTenants": control_walks.of_gateways,
    "antiphon.v1.Control/GetUsed": control_walks.of_gateways,
    "antiphon.v1.Control/SumUsage": control_walks.of_gateways,
    "antiphon.v1.Control/ReportRefusedKeys": control_walks.of_gateways,
    **{
        f"antiphon.v1.Batches/{call}": control_walks.of_gateways
        for call in (
            "BeginFile",
            "CompleteFile",
            "GetFile",
            "ListFiles",
            "DeleteFile",
            "CreateBatch",
            "GetBatch",
            "ListBatches",
            "CancelBatch",
            "TakeWork",
            "KeepWork",
            "ReturnLines",
            "StoreResults",
            "AddLines",
            "EndValidation",
            "ListLines",
            "EndBatch",
            "Removed",
        )
    },
}
# A control plane's come last: its sums are of what the others used.
WALKS = [
    *(f"gateway: {name}" for name in _GATEWAY),
    *(f"grpc: {name}" for name in _GRPC),
    *(f"control: GET {path}" for path in sorted(OPEN_PATHS)),
    *(f"control: {place}" for place in _CONTROL),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("tenants")
    with patience_with_redis():
        async with two_tenants(f"sqlite:///{folder}/control.db", store.url, folder) as running:
            yield running


async def test_the_walk_knows_every_route(world: World) -> None:
    """That the gateway's document has all that it serves, tests/gateway/test_openapi.py shows."""
    described = (await world.gateway.client.get("/openapi.json")).json()
    served = {
        f"gateway: {operation['operationId']}"
        for item in described["paths"].values()
        for method, operation in item.items()
        if method != "servers"
    }
    described = (await world.control.client.get("/openapi.json")).json()
    served |= {f"control: {method.upper()} {path}" for path, item in Documented(described).served() for method in item}
    served |= {f"control: GET {path}" for path in OPEN_PATHS}
    for file in (gateway_pb2, control_pb2, batches_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            served |= {f"grpc: {service.full_name}/{method.name}" for method in service.methods}
    assert served == set(WALKS), "add a walk of what is new to tests/isolation/test_two_tenants.py"


@pytest.mark.parametrize("route", WALKS)
async def test_nobody_learns_of_another_tenant(world: World, route: str) -> None:
    of, _, place = route.partition(": ")
    if of == "gateway":
        await _GATEWAY[place](world, place)
    elif of == "grpc":
        await _GRPC[place](world, place)
    else:
        method, _, path = place.partition(" ")
        walk = control_walks.same_for_all if path in OPEN_PATHS else _CONTROL[place]
        await walk(world, method, path)
