"""Sends blobs over gRPC: the owner streams a blob in chunks to the stage that fetches it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import grpc.aio

from antiphon.v1 import common_pb2
from services.common.channels import CHUNK_BYTES
from services.common.errors import BadInput, Fault
from services.common.grpc_errors import error_from_rpc
from services.common.telemetry.tracing import outgoing_metadata
from services.common.tensors.store import BlobStore


class FetchStub(Protocol):
    """The Fetch call of PreprocessStub and ThinkerStub."""

    @property
    def Fetch(  # noqa: N802  # the rpc's name
        self,
    ) -> grpc.aio.UnaryStreamMultiCallable[common_pb2.FetchRequest, common_pb2.FetchResponse]: ...


async def serve_blob(store: BlobStore, request: common_pb2.FetchRequest) -> AsyncIterator[common_pb2.FetchResponse]:
    """Yield the responses of a Fetch call. Raise Gone for an unknown key, BadInput for an offset past the end."""
    data = store.get(request.key)
    if request.offset_bytes > len(data):
        raise BadInput(f"offset {request.offset_bytes} is past the end ({len(data)} bytes)", param="offset_bytes")
    for start in range(request.offset_bytes, len(data), CHUNK_BYTES):
        yield common_pb2.FetchResponse(data=data[start : start + CHUNK_BYTES])


async def fetch_blob(stub: FetchStub, ref: common_pb2.BlobRef, *, peer: str, timeout_s: float) -> bytearray:
    """Fetch all bytes of `ref` from its owner through `stub`; `peer` names the owner in errors.

    Nothing copies them as a whole, which would hold the event loop: 10 ms for 80 MB.

    Raise Gone where the owner no longer holds it, WorkerLost where the owner is away, TimedOut, and Fault where the
    length differs from the one in `ref`.
    """
    data = bytearray()
    call = stub.Fetch(common_pb2.FetchRequest(key=ref.key), timeout=timeout_s, metadata=outgoing_metadata())
    try:
        async for response in call:
            data += response.data
            if len(data) > ref.size_bytes:
                call.cancel()
                break
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error, peer) from None
    if len(data) != ref.size_bytes:
        raise Fault(f"the {peer} sent {len(data)} bytes where {ref.size_bytes} were promised")
    return data
