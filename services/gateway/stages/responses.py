"""The responses of a streaming call, without the two coroutines and four functions of gRPC's own iterator for each.

    receive = await receiver(rpc)
    while (message := await receive()) is not END:
        ...                                # the message's bytes
    await raise_for_status(rpc)

`rpc` is a UnaryStreamCall or StreamStreamCall of grpc.aio that nothing else reads. Whoever leaves early cancels it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc.aio

END: Final[Any] = grpc.aio.EOF


async def receiver(rpc: Any) -> Callable[[], Awaitable[Any]]:
    """Wait until the request was sent. Return what waits for the next message: its bytes, or END."""
    await rpc._preparation
    return rpc._cython_call.receive_serialized_message


async def raise_for_status(rpc: Any) -> None:
    """Raise AioRpcError where the call failed, once it has ended."""
    await rpc._raise_for_status()
