"""The responses of a streaming call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import grpc.aio

T = TypeVar("T")


class Responses(Generic[T]):
    """Iterates over the messages of a call, each read with `parse`. Raises AioRpcError where the call failed.

    It does what the call's own iterator does, without the two coroutines and the functions that this has for each
    message. Whoever leaves the iteration cancels the call.
    """

    def __init__(self, rpc: Any, parse: Callable[[bytes], T]) -> None:
        """`rpc`: a UnaryStreamCall or StreamStreamCall of grpc.aio; nothing else reads from it."""
        self._rpc = rpc
        self._parse = parse
        # None until the request was sent.
        self._receive: Callable[[], Awaitable[Any]] | None = None

    def __aiter__(self) -> Responses[T]:
        return self

    async def __anext__(self) -> T:
        if self._receive is None:
            await self._rpc._preparation
            self._receive = self._rpc._cython_call.receive_serialized_message
        message = await self._receive()
        if message is grpc.aio.EOF:
            await self._rpc._raise_for_status()
            raise StopAsyncIteration
        return self._parse(message)
