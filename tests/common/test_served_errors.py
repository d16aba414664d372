"""What callers of a real server are told of what went wrong, and how their calls end."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from antiphon.v1 import common_pb2, thinker_pb2_grpc
from services.common.errors import INTERNAL, AntiphonError, BadInput, Capacity, Fault, Gone, WorkerLost
from services.common.grpc_errors import error_from_rpc
from services.common.tensors.transfer import ThinkerBlobs, fetch_blob
from tests.common.hosted import NAME, hosted
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


@pytest.mark.parametrize(
    ("refusal", "status_code"),
    [
        (BadInput("no such voice", param="audio.voice", code="unknown_voice"), grpc.StatusCode.INVALID_ARGUMENT),
        (Capacity("full", retry_after_s=2.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Gone("not held"), grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_an_error_keeps_all_its_fields_over_the_wire(refusal: AntiphonError, status_code: grpc.StatusCode):
    async with hosted() as (_, owner, channel):
        owner.refusal = refusal
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await thinker_pb2_grpc.ThinkerStub(channel).Release(common_pb2.ReleaseRequest(request_id="x"))
        assert caught.value.code() is status_code
        back = error_from_rpc(caught.value, "thinker")
        assert type(back) is type(refusal)
        assert (back.message, back.code, back.param, back.retry_after_s) == (
            refusal.message,
            refusal.code,
            refusal.param,
            refusal.retry_after_s,
        )


async def test_an_unexpected_exception_is_hidden_from_the_client():
    async with hosted() as (_, owner, channel):
        owner.refusal = RuntimeError("address 0xdeadbeef")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await thinker_pb2_grpc.ThinkerStub(channel).Release(common_pb2.ReleaseRequest(request_id="x"))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == INTERNAL


async def test_an_error_in_a_task_group_keeps_its_class():
    async with hosted() as (_, owner, channel):
        owner.refusal = ExceptionGroup("tasks", [ExceptionGroup("inner", [Gone("not held")]), ValueError("x")])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await thinker_pb2_grpc.ThinkerStub(channel).Release(common_pb2.ReleaseRequest(request_id="x"))
        assert isinstance(error_from_rpc(caught.value, "thinker"), Gone)


async def test_a_cancelled_call_ends_in_its_own_task(caplog: pytest.LogCaptureFixture):
    async with hosted() as (_, owner, channel):
        owner.store.put("k", bytes(32 << 20), "turn")  # more than the connection buffers unread
        call = thinker_pb2_grpc.ThinkerStub(channel).Fetch(common_pb2.FetchRequest(key="k"))
        await owner.entered.wait()
        call.cancel()
        await wait_until(lambda: owner.left_by_its_own_task is not None)
        assert owner.left_by_its_own_task
    assert not caplog.records  # OpenTelemetry logs a span that another task closes


async def test_an_unreachable_peer_is_a_lost_worker():
    async with hosted() as (host, _, channel):
        await host.server.stop(0)
        with pytest.raises(WorkerLost):
            await fetch_blob(
                ThinkerBlobs(channel),
                common_pb2.BlobRef(key="k", size_bytes=1),
                peer="thinker",
                timeout_s=2,
            )


@pytest.mark.parametrize(
    "method", [f"/{NAME}/Release", f"/{NAME}/Fetch", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
)
async def test_malformed_protobuf_is_invalid_and_logged_once(method: str, caplog: pytest.LogCaptureFixture):
    async with hosted() as (_, _, channel):
        refusals: list[grpc.aio.AioRpcError] = []
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await answers(channel, method, b"\xff" * 1000)
            refusals.append(caught.value)
    assert {refusal.code() for refusal in refusals} == {grpc.StatusCode.INVALID_ARGUMENT}
    (record,) = caplog.records
    assert method in record.getMessage()
    assert len(record.getMessage()) < 200
    assert not record.exc_info
    assert isinstance(error_from_rpc(refusals[0], "thinker"), Fault)  # between services it is our own error


async def answers(channel: grpc.aio.Channel, method: str, request: bytes) -> list[bytes]:
    if method.endswith(("Fetch", "Watch")):
        return [answer async for answer in channel.unary_stream(method)(request, timeout=HANGS_AFTER_S)]
    return [await channel.unary_unary(method)(request, timeout=HANGS_AFTER_S)]
