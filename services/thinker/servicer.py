"""The Thinker service: translates protos, and holds a slot for each Generate call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing
from typing import Any

import grpc.aio
from opentelemetry import trace

from antiphon.v1 import common_pb2, thinker_pb2, thinker_pb2_grpc
from services.common.channels import ChannelPool
from services.common.deadlines import by_this_clock
from services.common.errors import FEATURES_GONE, Gone, TimedOut, WorkerLost
from services.common.telemetry.logs import set_request_id
from services.common.tensors.store import BlobStore
from services.common.tensors.transfer import PreprocessBlobs, fetch_blob, serve_blob
from services.thinker import metrics
from services.thinker.generation import Generator

NAME = "antiphon.v1.Thinker"
# Hold a granted slot while the block runs; raise Gone for an unknown lease.
OpenSlot = Callable[[str], AbstractContextManager[object]]


class ThinkerServicer(thinker_pb2_grpc.ThinkerServicer):
    def __init__(self, generator: Generator, hidden_states: BlobStore, open_slot: OpenSlot) -> None:
        self._generator = generator
        self._hidden_states = hidden_states
        self._open_slot = open_slot

    async def Generate(
        self, request: thinker_pb2.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[thinker_pb2.GenerateResponse]:
        trace.get_current_span().set_attribute("antiphon.request_id", request.context.request_id)
        set_request_id(request.context.request_id)
        by_this_clock(request.context, context)
        with self._open_slot(request.lease.lease_id):
            async with aclosing(self._generator.run(request)) as events:
                async for event in events:
                    if event.HasField("hidden_states"):
                        metrics.HIDDEN_STATES_BYTES.set(self._hidden_states.used_bytes)
                    yield event

    async def Fetch(
        self, request: common_pb2.FetchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[common_pb2.FetchResponse]:
        async for chunk in serve_blob(self._hidden_states, request):
            yield chunk

    async def Release(
        self, request: common_pb2.ReleaseRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> common_pb2.ReleaseResponse:
        self._hidden_states.release(request.request_id)
        metrics.HIDDEN_STATES_BYTES.set(self._hidden_states.used_bytes)
        return common_pb2.ReleaseResponse()


class FeatureClient:
    """Fetches features from the preprocess workers that own them."""

    def __init__(self, channels: ChannelPool, timeout_s: float) -> None:
        self._channels = channels
        self._timeout_s = timeout_s

    async def __call__(self, ref: common_pb2.BlobRef) -> bytearray:
        stub = self._channels.stub(ref.owner, PreprocessBlobs)
        try:
            return await fetch_blob(stub, ref, peer="preprocess worker", timeout_s=self._timeout_s)
        except (Gone, WorkerLost, TimedOut) as error:
            raise Gone("the preprocess worker no longer holds the prompt's features", code=FEATURES_GONE) from error
