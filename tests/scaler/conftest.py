"""A real scaler process, and KEDA's client to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from externalscaler import externalscaler_pb2, externalscaler_pb2_grpc
from services.common.channels import open_channel
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

METADATA = {
    "scalerAddress": "scaler:9000",
    "stage": "thinker",
    "model": "tiny",
    "slotsPerReplica": "2",
    "targetUtilization": "0.8",
    "maxWaitSeconds": "0.3",
    "minReplicas": "0",
    "maxReplicas": "4",
    "scaleDownDelaySeconds": "1.5",
}


def scaled_object(name: str = "thinker", **changes: str | None) -> externalscaler_pb2.ScaledObjectRef:
    """Return the reference that KEDA sends. A change to None omits the key."""
    metadata = {key: value for key, value in {**METADATA, **changes}.items() if value is not None}
    return externalscaler_pb2.ScaledObjectRef(name=name, namespace="default", scalerMetadata=metadata)


@dataclass(frozen=True)
class Scaler:
    process: asyncio.subprocess.Process
    ports: dict[str, int]
    stub: externalscaler_pb2_grpc.ExternalScalerAsyncStub

    async def wanted(self, ref: externalscaler_pb2.ScaledObjectRef) -> float:
        """Return what the HPA reads: the value over the target of the only metric."""
        (spec,) = (await self.stub.GetMetricSpec(ref, timeout=HANGS_AFTER_S)).metricSpecs
        request = externalscaler_pb2.GetMetricsRequest(scaledObjectRef=ref, metricName=spec.metricName)
        (value,) = (await self.stub.GetMetrics(request, timeout=HANGS_AFTER_S)).metricValues
        return (value.metricValueFloat or value.metricValue) / (spec.targetSizeFloat or spec.targetSize)

    async def active(self, ref: externalscaler_pb2.ScaledObjectRef) -> bool:
        return (await self.stub.IsActive(ref, timeout=HANGS_AFTER_S)).result


def environment(**settings: object) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    return inherited | {f"ANTIPHON_{name.upper()}": str(value) for name, value in settings.items()}


@asynccontextmanager
async def running_scaler(redis_url: str, folder: Path, **more: object) -> AsyncGenerator[Scaler]:
    """Run a scaler with `more` settings. Assert that SIGTERM ends it with status 0."""
    ready = folder / "scaler.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.scaler",
        env=environment(redis_url=redis_url, ready_file=ready, drain_s=2, look_s=0.1, idle_look_s=0.1, **more),
    )
    try:
        await wait_until(lambda: ready.exists() or process.returncode is not None)
        ports: dict[str, int] = json.loads(ready.read_text())
        async with open_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            stub: Any = externalscaler_pb2_grpc.ExternalScalerStub(channel)
            yield Scaler(process, ports, stub)
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), HANGS_AFTER_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
