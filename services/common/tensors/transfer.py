"""Sends blobs over gRPC: the owner streams a blob in chunks to the stage that fetches it.

Of each byte there is one copy on either side, beside gRPC's own: the owner joins a chunk with the head of its message,
and the other stage puts it into its place. A protobuf message would hold two more of each chunk, and its bytes a third.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc.aio

from antiphon.v1 import common_pb2
from services.common.channels import CHUNK_BYTES
from services.common.errors import BadInput, Fault
from services.common.grpc_errors import error_from_rpc
from services.common.telemetry.tracing import outgoing_metadata
from services.common.tensors.store import BlobStore

# The tag of FetchResponse.data: field 1, with a length.
_DATA = 0x0A


class FetchStub(Protocol):
    """The Fetch call of PreprocessBlobs and ThinkerBlobs. It yields the data of each response."""

    @property
    def Fetch(  # noqa: N802  # the rpc's name
        self,
    ) -> grpc.aio.UnaryStreamMultiCallable[common_pb2.FetchRequest, memoryview]: ...


class PreprocessBlobs:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.Fetch = _fetch(channel, "/antiphon.v1.Preprocess/Fetch")


class ThinkerBlobs:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.Fetch = _fetch(channel, "/antiphon.v1.Thinker/Fetch")


async def serve_blob(store: BlobStore, request: common_pb2.FetchRequest) -> AsyncIterator[Any]:
    """Yield the responses of a Fetch call, serialized. Raise Gone for an unknown key, BadInput for an offset past the
    end."""
    data = memoryview(store.get(request.key))
    if request.offset_bytes > len(data):
        raise BadInput(f"offset {request.offset_bytes} is past the end ({len(data)} bytes)", param="offset_bytes")
    for start in range(request.offset_bytes, len(data), CHUNK_BYTES):
        yield serialized(data[start : start + CHUNK_BYTES])


async def fetch_blob(stub: FetchStub, ref: common_pb2.BlobRef, *, peer: str, timeout_s: float) -> bytearray:
    """Fetch all bytes of `ref` from its owner through `stub`; `peer` names the owner in errors.

    Nothing copies them as a whole, which would hold the event loop: 10 ms for 80 MB.

    Raise Gone where the owner no longer holds it, WorkerLost where the owner is away, TimedOut, and Fault where the
    length differs from the one in `ref`.
    """
    blob = bytearray(ref.size_bytes)
    view, size = memoryview(blob), 0
    call = stub.Fetch(common_pb2.FetchRequest(key=ref.key), timeout=timeout_s, metadata=outgoing_metadata())
    try:
        async for data in call:
            begin, size = size, size + len(data)
            if size > ref.size_bytes:
                call.cancel()
                break
            view[begin:size] = data
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error, peer) from None
    finally:
        view.release()
    if size != ref.size_bytes:
        raise Fault(f"the {peer} sent {size} bytes where {ref.size_bytes} were promised")
    return blob


def serialized(data: memoryview) -> bytes:
    """Return the bytes of a FetchResponse with `data`, which are copied once."""
    head = bytearray((_DATA,))
    left = len(data)
    while left > 0x7F:
        head.append(left & 0x7F | 0x80)
        left >>= 7
    head.append(left)
    return b"".join((head, data))


def data_of(message: bytes) -> memoryview:
    """Return the data of a FetchResponse, in its place in the message. Raise DecodeError."""
    if message[:1] == bytes((_DATA,)):
        size = shift = 0
        for at, byte in enumerate(message[1:11], 2):
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if at + size == len(message):
                    return memoryview(message)[at:]
                break
    return memoryview(common_pb2.FetchResponse.FromString(message).data)  # of another version


def _fetch(
    channel: grpc.aio.Channel, method: str
) -> grpc.aio.UnaryStreamMultiCallable[common_pb2.FetchRequest, memoryview]:
    return channel.unary_stream(
        method, request_serializer=common_pb2.FetchRequest.SerializeToString, response_deserializer=data_of
    )
