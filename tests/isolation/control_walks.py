"""What a tenant may try at each operation of the control plane, over HTTP and gRPC, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc.aio
import httpx
import pytest

from antiphon.v1 import batches_pb2, batches_pb2_grpc, control_pb2, control_pb2_grpc
from services.common.channels import open_channel
from tests.fixtures.wait import wait_until
from tests.gateway.requests import REQUESTS, ask
from tests.isolation.world import Tenant, World


async def of_operators(world: World, method: str, path: str) -> None:
    """No tenant's key does anything, with whatever id."""
    for tenant_id in [*world.alice.ids, world.bob.project]:
        where = path.replace("{id}", tenant_id)
        for secret, status in ((world.bob.reader["secret"], 403), (world.bob.secret, 401), ("", 401)):
            answer = await _ask(world, secret, method, where)
            assert answer.status_code == status, answer.text
            world.check_hidden(answer.text, tenant_id)
        if "{id}" not in path:
            return


async def of_own_project(world: World, method: str, path: str) -> None:
    """A tenant reads its own project. Another one is told from none by nothing."""
    reader, absent = world.bob.reader["secret"], f"{world.alice.project[:-4]}0000"
    own = await _ask(world, reader, method, path.replace("{id}", world.bob.project))
    assert own.status_code == 200, own.text
    assert world.bob.project in own.text
    world.check_hidden(own.text)
    hers, nobodys = [
        await _ask(world, reader, method, path.replace("{id}", id)) for id in (world.alice.project, absent)
    ]
    assert hers.status_code == nobodys.status_code == 404
    assert hers.text.replace(world.alice.project, "…") == nobodys.text.replace(absent, "…")
    assert (await _ask(world, world.bob.secret, method, path.replace("{id}", world.bob.project))).status_code == 401


async def own_usage(world: World, method: str, path: str) -> None:
    """A tenant reads its own sums, however it asks."""

    async def everyones() -> dict[str, int]:
        rows = (await world.control.get("/usage?group=project"))["data"]
        return {row["project_id"]: row["requests"] for row in rows}

    for tenant in (world.alice, world.bob):
        assert (await ask(world.gateway, REQUESTS["createChatCompletion"], tenant.secret)).status_code == 200
    for tenant, other in ((world.bob, world.alice), (world.alice, world.bob)):

        async def is_whole(tenant: Tenant = tenant) -> bool:
            rows = await _rows(world, tenant, path)
            return bool(rows) and rows[0]["requests"] == (await everyones())[tenant.project]

        await wait_until(is_whole)
        for row in await _rows(world, tenant, path, group="organisation,project,key"):
            assert (row["project_id"], row["tenant"]) == (tenant.project, tenant.name)
            assert row["key_id"] in tenant.ids
        assert await _rows(world, tenant, path, key=other.key["id"]) == []
        assert await _rows(world, tenant, path, key="key_unknown") == []
    for unknown in ("project", "organisation"):
        refused = await _ask(world, world.bob.reader["secret"], method, f"{path}?{unknown}={world.alice.project}")
        assert refused.json()["error"]["code"] == "unknown_parameter"
    assert (await _ask(world, world.bob.secret, method, path)).status_code == 401


async def own_usage_at_a_gateway(world: World, name: str) -> None:
    """A gateway shows a tenant what the control plane does, and no more."""
    asked = REQUESTS[name]

    async def rows(tenant: Tenant, query: str) -> list[dict[str, Any]]:
        answer = await ask(world.gateway, replace(asked, path=f"{asked.path}?{query}"), tenant.reader["secret"])
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    for tenant, other in ((world.bob, world.alice), (world.alice, world.bob)):
        assert (await ask(world.gateway, REQUESTS["createChatCompletion"], tenant.secret)).status_code == 200

        async def has_both(tenant: Tenant = tenant) -> bool:
            here = await rows(tenant, "group=organisation,project,key")
            return bool(here) and here == await _rows(world, tenant, "/v1/usage", group="organisation,project,key")

        await wait_until(has_both)
        for row in await rows(tenant, "group=project,key&limit=200"):
            assert (row["project_id"], row["tenant"]) == (tenant.project, tenant.name)
            assert row["key_id"] in tenant.ids
        assert await rows(tenant, f"key={other.key['id']}") == []
    for unknown in ("project", "organisation", "project_id"):
        query = replace(asked, path=f"{asked.path}?{unknown}={world.alice.project}")
        refused = await ask(world.gateway, query, world.bob.reader["secret"])
        assert refused.json()["error"]["code"] == "unknown_parameter"
    assert (await ask(world.gateway, asked, world.bob.secret)).json()["error"]["code"] == "missing_scope"


async def same_for_all(world: World, method: str, path: str) -> None:
    secrets = (world.alice.reader["secret"], world.bob.reader["secret"], "")
    texts = {(await _ask(world, secret, method, path)).text for secret in secrets}
    assert len(texts) == 1
    world.check_hidden(*texts)


async def of_gateways(world: World, method: str) -> None:
    """What gateways are told no tenant's key opens."""
    name, _, call_name = method.rpartition("/")
    file = batches_pb2 if name.endswith("Batches") else control_pb2
    described = file.DESCRIPTOR.services_by_name[name.rpartition(".")[2]].methods_by_name[call_name]
    request = getattr(file, described.input_type.name)()
    alices: dict[str, Any] = {
        "tenant": world.alice.name,
        "project_id": world.alice.project,
        "subjects": world.alice.ids,
    }
    for field, named in alices.items():
        if field in described.input_type.fields_by_name:
            request.MergeFrom(type(request)(**{field: named}))
    async with open_channel(world.control.address) as channel:
        stub: Any = (batches_pb2_grpc.BatchesStub if file is batches_pb2 else control_pb2_grpc.ControlStub)(channel)
        for secret in (world.bob.secret, world.bob.reader["secret"], ""):
            made = getattr(stub, call_name)(request, metadata=(("authorization", f"Bearer {secret}"),))
            call = anext(aiter(made)) if described.server_streaming else made
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            world.check_hidden(str(caught.value.details()))


async def _rows(world: World, tenant: Tenant, path: str, **query: str) -> list[dict[str, Any]]:
    asked = httpx.URL(path, params={"group": "", **query})
    answer = await _ask(world, tenant.reader["secret"], "GET", str(asked))
    assert answer.status_code == 200, answer.text
    rows = answer.json()["data"]
    return [row for row in rows if row["requests"]]


async def _ask(world: World, secret: str, method: str, path: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return await world.client.request(method, path, headers=headers, json=None if method == "GET" else {})
