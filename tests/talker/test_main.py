"""The talker as a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, cast

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common.channels import open_channel
from services.common.queues import QueueClient, QueueName
from services.common.redis_client import connect
from services.common.settings import SettingsError, load_settings
from services.talker.settings import TalkerSettings
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


def environment(**settings: object) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    return inherited | {f"ANTIPHON_{name.upper()}": str(value) for name, value in settings.items()}


async def test_a_talker_starts_registers_and_ends_cleanly_on_sigterm(
    tiny_instruct: Path, valkey_url: str, tmp_path: Path
) -> None:
    ready = tmp_path / "ready.json"
    started_s = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.talker",
        env=environment(model=tiny_instruct, served_name="main-test", redis_url=valkey_url, ready_file=ready),
    )
    try:
        await wait_until(lambda: ready.exists() or process.returncode is not None)
        took_s = time.monotonic() - started_s
        ports = json.loads(ready.read_text())
        async with open_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            for name in ("", "antiphon.v1.Talker"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, channel))
            listing = reflection_pb2.ServerReflectionRequest(list_services="")
            async for response in stub.ServerReflectionInfo(iter([listing])):
                names = {service.name for service in response.list_services_response.service}
                assert "antiphon.v1.Talker" in names
        metrics = await asyncio.to_thread(_get, f"http://127.0.0.1:{ports['metrics']}/metrics")
        # The metrics count the warm-up's speech: an answer, and a frame with which it is resumed.
        assert "antiphon_talker_frames_total 41.0" in metrics
        redis = connect(valkey_url)
        queues = QueueClient(redis, "main-test-gateway")

        async def is_shown() -> bool:
            workers = await queues.workers(QueueName("talker", "main-test"))
            return [sorted(worker.card.voices) for worker in workers] == [["aiden", "chelsie", "ethan"]]

        await wait_until(is_shown)
        (worker,) = await queues.workers(QueueName("talker", "main-test"))
        assert took_s / 2 < worker.start_s < took_s + 0.1  # for so long tickets wait for the next one
        await redis.aclose()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), HANGS_AFTER_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DEVICE", "tpu", "ANTIPHON_DEVICE"),
        ("SPEED", "3", "ANTIPHON_SPEED: unknown"),
        ("MAX_FRAMES", "0", "ANTIPHON_MAX_FRAMES"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("ANTIPHON_")]:
        monkeypatch.delenv(variable)
    for variable, setting in {"MODEL": "-", "REDIS_URL": "redis://127.0.0.1:1", name: value}.items():
        monkeypatch.setenv(f"ANTIPHON_{variable}", setting)
    with pytest.raises(SettingsError, match=told):
        load_settings(TalkerSettings)


async def test_a_checkpoint_without_speech_stops_the_start(tiny_thinking: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.talker",
        env=environment(model=tiny_thinking, redis_url="redis://127.0.0.1:1"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, message = await process.communicate()
    assert process.returncode == 1
    assert "no talker" in message.decode()
    assert "Traceback" not in message.decode()


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=HANGS_AFTER_S) as response:
        return cast(bytes, response.read()).decode()
