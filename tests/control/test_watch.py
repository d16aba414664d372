"""What a gateway knows of its tenants: it follows the control plane over real gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from antiphon.v1 import control_pb2, control_pb2_grpc
from services.common.errors import Unauthenticated, Unavailable
from services.common.key_scopes import Scope
from services.gateway.control import tenants as control_tenants
from tests.control.conftest import TOKEN, RunningControl, running_control
from tests.control.follower import Follower
from tests.fixtures.ports import free_port
from tests.fixtures.wait import wait_until


async def test_tenants_stay_while_the_control_plane_is_away(sqlite_url: str, tmp_path: Path) -> None:
    port, cache = free_port(), tmp_path / "folder/tenants"
    follower = Follower(f"127.0.0.1:{port}", cache)
    async with follower.following():
        with pytest.raises(Unavailable):  # not 401: the key may be right
            follower.keys.principal_of(b"Bearer ap_any")
        assert not follower.keys.can_be_checked
        async with running_control(sqlite_url, grpc_port=port) as control:
            key = await control.new_key(await control.new_project())
            await wait_until(lambda: follower.takes(key["secret"]))
        assert follower.takes(key["secret"])
        async with running_control(sqlite_url, grpc_port=port) as control:
            await control.post(f"/keys/{key['id']}/revoke", status=200)
            await wait_until(lambda: not follower.takes(key["secret"]))
        assert [update.whole for update in follower.updates].count(True) == 2  # the start, and one snapshot
    assert cache.stat().st_mode & 0o077 == 0
    assert key["secret"].rpartition("_")[2].encode() not in cache.read_bytes()


async def test_a_gateway_starts_from_its_file(sqlite_url: str, tmp_path: Path) -> None:
    cache = tmp_path / "tenants"
    async with running_control(sqlite_url) as control:
        key = await control.new_key(await control.new_project())
        follower = Follower(control.address, cache)
        async with follower.following():
            await wait_until(lambda: follower.takes(key["secret"]))
            await wait_until(cache.exists)
    nobody = f"127.0.0.1:{free_port()}"
    restarted = Follower(nobody, cache, max_age_s=3600)
    async with restarted.following():
        principal = restarted.keys.principal_of(f"Bearer {key['secret']}".encode())
        assert (principal.tenant, principal.key_id) == ("acme.prod", key["id"])
        with pytest.raises(Unauthenticated):
            restarted.keys.principal_of(b"Bearer ap_other")
        restarted.late_s = 3700
        assert not restarted.keys.can_be_checked
        with pytest.raises(Unavailable):
            restarted.keys.principal_of(f"Bearer {key['secret']}".encode())
    late = Follower(nobody, cache, max_age_s=3600)
    late.late_s = 3700
    late.use(late.source.start())  # a restart does not make them younger
    assert not late.takes(key["secret"])


async def test_a_revocation_while_a_gateway_was_down_holds(sqlite_url: str, tmp_path: Path) -> None:
    cache = tmp_path / "tenants"
    async with running_control(sqlite_url) as control:
        key = await control.new_key(await control.new_project())
        follower = Follower(control.address, cache)
        async with follower.following():
            await wait_until(lambda: follower.takes(key["secret"]))
            await wait_until(cache.exists)
        await control.post(f"/keys/{key['id']}/revoke", status=200)
        restarted = Follower(control.address, cache)
        restarted.use(restarted.source.start())
        assert restarted.takes(key["secret"])
        async with restarted.following():
            await wait_until(lambda: not restarted.takes(key["secret"]))
        assert not any(update.whole for update in restarted.updates[2:])  # it asked from where it was


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b""])
def test_a_damaged_file_is_no_reason_not_to_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tenants").write_bytes(content)
    follower = Follower("127.0.0.1:1", tmp_path / "tenants")
    follower.use(follower.source.start())
    assert not follower.keys.can_be_checked


async def test_a_key_expires_by_the_gateway_s_clock(control: RunningControl) -> None:
    project = await control.new_project()
    old = await control.new_key(project, expires_at="2500-01-01T00:00:00Z")
    follower = Follower(control.address, max_age_s=1e12)
    async with follower.following():
        await wait_until(lambda: follower.takes(old["secret"]))
        new = await control.post(f"/keys/{old['id']}/rotate", {"overlap_s": 600})
        await wait_until(lambda: follower.takes(new["secret"]))
        assert follower.takes(old["secret"])
        follower.late_s = 700
        assert follower.takes(new["secret"])
        with pytest.raises(Unauthenticated, match="expired"):
            follower.keys.principal_of(f"Bearer {old['secret']}".encode())


async def test_a_change_of_another_replica_is_noticed(database_url: str) -> None:
    async with running_control(database_url) as first, running_control(database_url) as second:
        key = await first.new_key(await first.new_project())
        follower = Follower(second.address)
        async with follower.following():
            await wait_until(lambda: follower.takes(key["secret"]))
            await first.post(f"/keys/{key['id']}/revoke", status=200)
            await wait_until(lambda: not follower.takes(key["secret"]))


async def test_many_keys_come_in_several_messages(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.control.servicer.KEYS_A_MESSAGE", 2)
    async with running_control(sqlite_url) as control:
        project = await control.new_project()
        made = [await control.new_key(project, f"key {number}") for number in range(5)]
        follower = Follower(control.address)
        async with follower.following():
            await wait_until(lambda: all(follower.takes(key["secret"]) for key in made))
            assert len([update for update in follower.updates if update.put]) == 1  # all together
            await control.post(f"/projects/{project}/archive", status=200)
            await wait_until(lambda: not any(follower.takes(key["secret"]) for key in made))


async def test_a_wrong_token_receives_nothing(control: RunningControl) -> None:
    async with grpc.aio.insecure_channel(control.address) as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", TOKEN),)):
            call = stub.WatchTenants(control_pb2.WatchTenantsRequest(), metadata=metadata)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_silent_stream_is_given_up(monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> None:
    """A control plane that hangs keeps its connection open."""
    monkeypatch.setattr(control_tenants, "SILENCE_S", 0.2)
    calls = 0

    class Hanging(control_pb2_grpc.ControlServicer):
        async def WatchTenants(self, request: Any, context: Any) -> None:  # pyright: ignore
            nonlocal calls
            calls += 1
            await asyncio.Event().wait()

    server = grpc.aio.server()
    control_pb2_grpc.add_ControlServicer_to_server(Hanging(), server)  # pyright: ignore
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    follower = Follower(f"127.0.0.1:{port}")
    async with follower.following():
        await wait_until(lambda: calls >= 2)
    await server.stop(0)


async def test_scopes_of_a_newer_control_plane_are_ignored() -> None:
    key = control_pb2.TenantKey(key_id="key_1", sha256=b"0" * 32, tenant="acme", scopes=[1, 99])  # pyright: ignore
    assert control_tenants.api_key_of(key).scopes == {Scope.CHAT}
