"""PostgreSQL goes away and comes back."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest

from antiphon.v1 import control_pb2, control_pb2_grpc
from tests.control.conftest import TOKEN, RunningControl, running_control
from tests.control.follower import Follower
from tests.fixtures.postgresql import new_server
from tests.fixtures.wait import wait_until


async def test_gateways_keep_their_tenants_while_the_database_is_away() -> None:
    with new_server() as server:
        await asyncio.to_thread(server.start)
        url = await asyncio.to_thread(server.new_database)
        async with running_control(url) as control:
            key = await control.new_key(await control.new_project())
            follower = Follower(control.address)
            async with follower.following():
                await wait_until(lambda: follower.takes(key["secret"]))
                await asyncio.to_thread(server.stop)
                for method, path in (("GET", "/keys?prefix=ap_x"), ("POST", f"/keys/{key['id']}/revoke")):
                    answer = await control.client.request(method, f"/admin/v1{path}")
                    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
                    assert "retry-after" in answer.headers
                assert (await control.client.get("/health/live")).status_code == 200
                assert (await control.client.get("/health/ready")).status_code == 503
                assert follower.takes(key["secret"])
                await wait_until(lambda: control.control.feed.is_away)
                last = follower.updates[-1]
                # Nobody can say that a gateway's keys are the latest: one that comes anew must not hear so.
                async with grpc.aio.insecure_channel(control.address) as channel:
                    asked = control_pb2.WatchTenantsRequest(
                        epoch=follower.source.epoch, version=follower.source.version
                    )
                    call = control_pb2_grpc.ControlStub(channel).WatchTenants(
                        asked, metadata=(("authorization", f"Bearer {TOKEN}"),)
                    )
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(call.read(), 1)
                assert follower.updates[-1] is last
                heard = len(follower.updates)
                await asyncio.to_thread(server.start)
                await wait_until(lambda: _is_ready(control))
                await wait_until(lambda: len(follower.updates) > heard)
                await control.post(f"/keys/{key['id']}/revoke", status=200)
                await wait_until(lambda: not follower.takes(key["secret"]))


async def _is_ready(control: RunningControl) -> bool:
    return (await control.client.get("/health/ready")).status_code == 200
