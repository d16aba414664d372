"""KEDA's ExternalScaler service: translates its protos to calls of watches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio

from externalscaler import externalscaler_pb2, externalscaler_pb2_grpc
from services.common.errors import BadInput
from services.scaler.metadata import read_trigger
from services.scaler.watch import Watch
from services.scaler.watches import Watches

_Context = grpc.aio.ServicerContext[Any, Any]


def metric_name(stage: str) -> str:
    return f"antiphon-{stage}"


class ExternalScalerServicer(externalscaler_pb2_grpc.ExternalScalerServicer):
    """Serves one metric, the wanted number of replicas, with target 1. KEDA's HPA then asks for exactly that number."""

    def __init__(self, watches: Watches) -> None:
        self._watches = watches

    async def IsActive(
        self, request: externalscaler_pb2.ScaledObjectRef, context: _Context
    ) -> externalscaler_pb2.IsActiveResponse:
        watch = await self._watch(request)
        return externalscaler_pb2.IsActiveResponse(result=await watch.active())

    async def StreamIsActive(
        self, request: externalscaler_pb2.ScaledObjectRef, context: _Context
    ) -> AsyncIterator[externalscaler_pb2.IsActiveResponse]:
        watch = await self._watch(request)
        async with aclosing(watch.activity()) as activity:
            async for active in activity:
                yield externalscaler_pb2.IsActiveResponse(result=active)

    async def GetMetricSpec(
        self, request: externalscaler_pb2.ScaledObjectRef, context: _Context
    ) -> externalscaler_pb2.GetMetricSpecResponse:
        stage = read_trigger(request.scalerMetadata).queue.stage
        spec = externalscaler_pb2.MetricSpec(metricName=metric_name(stage), targetSize=1, targetSizeFloat=1.0)
        return externalscaler_pb2.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(
        self, request: externalscaler_pb2.GetMetricsRequest, context: _Context
    ) -> externalscaler_pb2.GetMetricsResponse:
        watch = await self._watch(request.scaledObjectRef)
        known = metric_name(watch.trigger.queue.stage)
        if request.metricName != known:
            raise BadInput(f"metricName: '{request.metricName[:100]}' is not {known}", param="metricName")
        replicas = (await watch.decide()).replicas
        value = externalscaler_pb2.MetricValue(metricName=known, metricValue=replicas, metricValueFloat=float(replicas))
        return externalscaler_pb2.GetMetricsResponse(metricValues=[value])

    async def _watch(self, ref: externalscaler_pb2.ScaledObjectRef) -> Watch:
        return await self._watches.get(ref.namespace, ref.name, read_trigger(ref.scalerMetadata))
