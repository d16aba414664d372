"""A caller that disconnects during a send. gRPC fails the send first and cancels the call afterwards."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio
import pytest

from services.common.errors import BadInput
from services.common.interceptors import CallInterceptor


class LostCaller:
    """The context of a call whose caller just disconnected: sends fail, and the cancel comes late."""

    def __init__(self) -> None:
        self.serving: asyncio.Task[Any] | None = None
        self.late_turns = 3
        self.aborted = False

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def write(self, _: object) -> None:
        asyncio.get_running_loop().call_soon(self._cancel, self.late_turns)
        raise grpc.aio.InternalError("not sent")

    async def abort(self, *_: object) -> None:
        self.aborted = True  # from here on grpc no longer cancels the call
        raise grpc.aio.InternalError("not sent")

    def _cancel(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._cancel, turns - 1)
        elif self.serving is not None:
            self.serving.cancel()


async def intercepted(handler: Any) -> Any:
    class Details:
        method = "/antiphon.v1.Thinker/Generate"

    async def find(_: Any) -> Any:
        return handler

    return await CallInterceptor().intercept_service(find, Details())  # pyright: ignore[reportArgumentType]


async def test_a_failed_write_cancels_the_call_after_its_cleanup(
    caplog: pytest.LogCaptureFixture,
):
    steps: list[str] = []
    tasks: set[asyncio.Task[Any] | None] = set()

    async def generate(_request: object, _context: object) -> AsyncGenerator[bytes]:
        tasks.add(asyncio.current_task())
        try:
            yield b"a"
            yield b"b"
        finally:
            tasks.add(asyncio.current_task())
            for _ in range(10):  # frees a slot over several iterations of the event loop
                await asyncio.sleep(0)
            steps.append("freed")

    caller = LostCaller()
    handler = await intercepted(grpc.unary_stream_rpc_method_handler(generate))
    caller.serving = asyncio.create_task(handler.unary_stream(b"", caller))
    with pytest.raises(asyncio.CancelledError):
        await caller.serving
    assert steps == ["freed"]
    assert tasks == {caller.serving}
    assert not caller.aborted
    assert not caplog.records


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_unsent_error_is_a_cancelled_call(streamed: bool, caplog: pytest.LogCaptureFixture):
    async def single(_request: object, _context: object) -> bytes:
        raise BadInput("no such voice")

    async def stream(_request: object, _context: object) -> AsyncGenerator[bytes]:
        raise BadInput("no such voice")
        yield b""

    caller = LostCaller()
    if streamed:
        handler = await intercepted(grpc.unary_stream_rpc_method_handler(stream))
        serving = asyncio.create_task(handler.unary_stream(b"", caller))
    else:
        handler = await intercepted(grpc.unary_unary_rpc_method_handler(single))
        serving = asyncio.create_task(handler.unary_unary(b"", caller))
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert caller.aborted
    assert not caplog.records
