"""Each service by itself, as in a container: reflection, health, metrics, SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.local.plan import CPU_ENVIRON, EVERY_ENVIRON
from tests.fixtures.processes import children
from tests.fixtures.wait import wait_until

METHODS = {
    "gateway": {"Converse"},
    "preprocess": {"Prepare", "Fetch", "Release"},
    "thinker": {"Generate", "Fetch", "Release"},
    "talker": {"Speak"},
}
START_S = 120
STOP_S = 20


def environ_of(name: str, model: Path, redis_url: str, ready_file: Path) -> dict[str, str]:
    """Return the variables that the service requires."""
    own = {"ANTIPHON_ALLOW_ANONYMOUS": "true", "ANTIPHON_HTTP_PORT": "0"}
    if name != "gateway":
        own = {"ANTIPHON_MODEL": str(model)}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ANTIPHON_")}
    shared = {"ANTIPHON_REDIS_URL": redis_url, "ANTIPHON_READY_FILE": str(ready_file), "ANTIPHON_DRAIN_S": "2"}
    return {**clean, **CPU_ENVIRON, **EVERY_ENVIRON, **shared, **own}


async def described_methods(channel: Any, service: str) -> set[str]:
    """Return the method names that reflection gives a client without our protos."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)

    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    listed, described = [answer async for answer in stub.ServerReflectionInfo(ask(), timeout=10)]
    assert service in {entry.name for entry in listed.list_services_response.service}
    files = [FileDescriptorProto.FromString(f) for f in described.file_descriptor_response.file_descriptor_proto]
    return {m.name for f in files for s in f.service if f"{f.package}.{s.name}" == service for m in s.method}


@pytest.mark.parametrize("name", list(METHODS))
async def test_a_service_alone_serves_reflection_health_and_ends_on_sigterm(
    name: str, tiny_instruct: Path, valkey_url: str, tmp_path: Path
):
    ready_file = tmp_path / "ready.json"
    log = (tmp_path / "log").open("wb")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"services.{name}"),
        env=environ_of(name, tiny_instruct, valkey_url, ready_file),
        stdout=log,
        stderr=log,
    )
    try:
        await wait_until(lambda: ready_file.exists() or process.returncode is not None, within_s=START_S)
        assert process.returncode is None, (tmp_path / "log").read_text()[-4000:]
        ports = json.loads(ready_file.read_text())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            service = f"antiphon.v1.{name.capitalize()}"
            assert await described_methods(channel, service) == METHODS[name]
            health: Any = health_pb2_grpc.HealthStub(channel)
            for asked in ("", service):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=asked), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
        if name == "thinker":
            (core,) = children(process.pid)  # forked: spawning would also start Python's resource tracker
            assert _title(core) == "VLLM::EngineCore"
        metrics = await asyncio.to_thread(_read, f"http://127.0.0.1:{ports['metrics']}/metrics")
        assert f"antiphon_{name}_" in metrics
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), STOP_S) == 0, (tmp_path / "log").read_text()[-4000:]
    finally:
        log.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().strip("\0")


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()
