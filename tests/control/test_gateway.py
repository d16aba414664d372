"""A whole gateway beside the control plane: keys over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from pydantic import SecretStr

from antiphon.v1 import gateway_pb2_grpc
from services.common.channels import open_channel
from services.common.queues import QueueName
from services.gateway.control import refused_keys
from services.gateway.converse.servicer import CONVERSE
from tests.control.conftest import TOKEN, RunningControl
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import THINKING, RunningGateway, absent_workers, all_slots_taken, running_gateway
from tests.gateway.grpc_port import grpc_port
from tests.gateway.samples import sample

CHAT = "/v1/chat/completions"


async def test_a_gateway_takes_a_key_and_refuses_it_once_revoked(
    control: RunningControl, redis_url: str, tmp_path: Path
) -> None:
    mine, theirs = await control.new_project("acme", "prod"), await control.new_project("corp", "prod")
    async with _gateway(redis_url, control, tmp_path) as gateway:
        first, other = await control.new_key(mine), await control.new_key(theirs)
        await wait_until(lambda: _is_let_in(gateway, first["secret"]))
        await wait_until(lambda: _is_let_in(gateway, other["secret"]))
        assert await _status(gateway, "ap_abcdefghij_wrong") == 401
        await control.post(f"/keys/{first['id']}/revoke", status=200)
        await wait_until(lambda: _is_refused(gateway, first["secret"]))
        assert await _is_let_in(gateway, other["secret"])
        await control.post(f"/projects/{theirs}/archive", status=200)
        await wait_until(lambda: _is_refused(gateway, other["secret"]))


async def test_keys_that_a_gateway_refuses_are_in_the_audit_log(
    control: RunningControl, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused_keys, "SOON_S", 0.05)
    monkeypatch.setattr(refused_keys, "PAUSE_S", 0.0)
    key = await control.new_key(await control.new_project())
    async with _gateway(redis_url, control, tmp_path) as gateway:
        await wait_until(lambda: _is_let_in(gateway, key["secret"]))
        await control.post(f"/keys/{key['id']}/revoke", status=200)
        await wait_until(lambda: _is_refused(gateway, key["secret"]))
        assert await _status(gateway, "hunter2") == 401
        assert (await gateway.client.get("/v1/models")).status_code == 401
        async with grpc_port(gateway) as address, open_channel(address) as channel:
            wrong: Any = (("authorization", f"Bearer {(other := 'ap_' + 10 * 'a')}_{20 * 'a'}"),)
            with pytest.raises(grpc.aio.AioRpcError):
                await gateway_pb2_grpc.GatewayStub(channel).Converse(iter(()), metadata=wrong).read()

        async def told() -> set[tuple[str, str, str, str]]:
            rows = (await control.get("/audit?action=api_key.refused"))["data"]
            assert {row["remote"] for row in rows} <= {"127.0.0.1"}
            return {(row["target"], *(row["detail"][name] for name in ("prefix", "reason", "path"))) for row in rows}

        wanted = {
            (key["id"], key["prefix"], "invalid_api_key", "/v1/models"),
            ("", "", "invalid_api_key", "/v1/models"),  # which may be a password
            ("", "", "missing_api_key", "/v1/models"),
            ("", other, "invalid_api_key", CONVERSE),
        }

        async def is_told() -> bool:
            return wanted <= await told()

        await wait_until(is_told)
        written = json.dumps((await control.get("/audit"))["data"])
        assert key["secret"] not in written
        assert "hunter2" not in written


async def test_a_key_is_used_for_its_scopes_alone(control: RunningControl, redis_url: str, tmp_path: Path) -> None:
    project = await control.new_project()
    async with _gateway(redis_url, control, tmp_path) as gateway:
        scopes = ("chat", "speech", "transcription")
        keys = {scope: (await control.new_key(project, scope, scopes=[scope]))["secret"] for scope in scopes}
        await wait_until(lambda: _is_let_in(gateway, keys["transcription"]))
        file: dict[str, Any] = {"files": {"file": ("a.wav", b"sound")}, "data": {"model": "none"}}
        requests: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("chat", "/chat/completions", {"json": {"model": "none", "messages": [{"role": "user", "content": "Hi"}]}}),
            ("chat", "/responses", {"json": {"model": "none", "input": "Hi"}}),
            ("speech", "/audio/speech", {"json": {"model": "none", "input": "Hello", "voice": "ethan"}}),
            ("transcription", "/audio/transcriptions", file),
            ("transcription", "/audio/translations", file),
        )
        for needed, url, body in requests:
            for scope, secret in keys.items():
                answer = await gateway.client.post("/v1" + url, headers={"authorization": f"Bearer {secret}"}, **body)
                wanted = (503, "no_worker") if scope == needed else (403, "missing_scope")
                assert (answer.status_code, answer.json()["error"]["code"]) == wanted, answer.text


async def test_a_revoked_key_s_running_answers_end(control: RunningControl, redis_url: str, tmp_path: Path) -> None:
    project = await control.new_project()
    body = {"model": THINKING.name, "messages": [{"role": "user", "content": "Hello"}]}
    async with (
        absent_workers(redis_url, THINKING),
        # What waits for a slot is a turn that runs.
        all_slots_taken(redis_url, QueueName("preprocess", THINKING.name)),
        all_slots_taken(redis_url, QueueName("thinker", THINKING.name)),
        _gateway(redis_url, control, tmp_path, keep_alive_s=0.05) as gateway,
    ):
        key, other = await control.new_key(project), await control.new_key(project, "other")
        await wait_until(lambda: _is_let_in(gateway, other["secret"]))
        of_key, of_other = ({"authorization": f"Bearer {each['secret']}"} for each in (key, other))
        async with (
            gateway.client.stream("POST", CHAT, json={**body, "stream": True}, headers=of_key) as stream,
            gateway.client.stream("POST", CHAT, json={**body, "stream": True}, headers=of_other) as others,
        ):
            whole = asyncio.create_task(gateway.client.post(CHAT, json=body, headers=of_key))
            lines, other_lines = stream.aiter_lines(), others.aiter_lines()
            await anext(lines)
            await wait_until(lambda: sample("antiphon_gateway_live_turns", tenant="acme.prod") == 3)
            await control.post(f"/keys/{key['id']}/revoke", status=200)
            told = [line async for line in lines if line.startswith("data: ")]
            assert [json.loads(line.removeprefix("data: "))["error"]["code"] for line in told] == ["revoked_api_key"]
            answer = await whole
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "revoked_api_key")
            assert {await anext(other_lines) for _ in range(20)} == {": keep-alive", ""}


@asynccontextmanager
async def _gateway(
    store_url: str, control: RunningControl, tmp_path: Path, **settings: Any
) -> AsyncGenerator[RunningGateway]:
    async with running_gateway(
        store_url,
        api_key="",
        control_address=control.address,
        control_token=SecretStr(TOKEN),
        control_cache_file=tmp_path / "tenants",
        **settings,
    ) as gateway:
        yield gateway


async def _status(gateway: RunningGateway, secret: str) -> int:
    return (await gateway.client.get("/v1/models", headers={"authorization": f"Bearer {secret}"})).status_code


async def _is_let_in(gateway: RunningGateway, secret: str) -> bool:
    return await _status(gateway, secret) == 200


async def _is_refused(gateway: RunningGateway, secret: str) -> bool:
    return await _status(gateway, secret) == 401
