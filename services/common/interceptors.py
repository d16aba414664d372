"""The interceptor of every gRPC method: it parses requests, opens a span and turns exceptions into statuses."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from opentelemetry.trace import SpanKind

from services.common.errors import NO_MESSAGE, BadInput
from services.common.grpc_errors import abort, as_known
from services.common.moved_calls import moved_error
from services.common.telemetry.tracing import context_from_metadata, tracer
from services.common.wire import check_field_count

_CANCEL_COMES_WITHIN_S = 5
# The fields of a smaller request are not counted.
_SMALL_BYTES = 1 << 16
# Invalid requests of one method are logged at most this often.
LOG_EVERY_S = 60.0

logger = logging.getLogger(__name__)
_Context = grpc.aio.ServicerContext[Any, Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Opens a server span that continues the caller's. Turns errors into a status and an ErrorDetail.

    It parses requests itself: grpc.aio would answer an invalid one with UNKNOWN and log a traceback. `max_fields` is
    how many fields a large request may hold; None = any number, for trusted callers.
    """

    def __init__(self, max_fields: int | None = None) -> None:
        self._max_fields = max_fields
        self._logged_s: dict[str, float] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        requests = _Requests(handler.request_deserializer, method, self._max_fields, self._logged_s)
        if handler.response_streaming:
            wrapped = _streaming(
                handler.stream_stream or handler.unary_stream, method, requests.of(stream=handler.request_streaming)
            )
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            wrapped = _single(
                handler.stream_unary or handler.unary_unary, method, requests.of(stream=handler.request_streaming)
            )
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        return make(wrapped, None, handler.response_serializer)


class _Requests:
    """Parses the requests of one method."""

    def __init__(
        self,
        parse: Callable[[bytes], Any] | None,
        method: str,
        max_fields: int | None,
        logged_s: dict[str, float],
    ) -> None:
        self._parse = parse
        self._method = method
        self._max_fields = max_fields
        # Generated stubs register `FromString` of the message's class.
        self._message: Any = getattr(parse, "__self__", None)
        self._logged_s = logged_s

    def of(self, *, stream: bool) -> Callable[[Any], Any]:
        """Return the parser of the method's argument: of a stream of messages, or of one message."""
        return self.each if stream else self.one

    def one(self, data: bytes) -> Any:
        """Parse `data`. Raise BadInput where it is invalid or holds too many fields."""
        if self._parse is None:
            return data
        if self._max_fields is not None and len(data) > _SMALL_BYTES and self._message is not None:
            check_field_count(data, self._message.DESCRIPTOR, self._max_fields)
        try:
            return self._parse(data)
        except DecodeError:
            self._log()
            raise BadInput(
                f"The request to {self._method} is not a valid protobuf message. Send the method's type.",
                code=NO_MESSAGE,
            ) from None

    def each(self, stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        return _Parsed(aiter(stream), self.one)

    def _log(self) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s.get(self._method, float("-inf")) >= LOG_EVERY_S:
            self._logged_s[self._method] = now_s
            logger.warning("%s was sent bytes that are not a valid protobuf message", self._method)


class _Parsed:
    """The parsed messages of a stream. Not a generator: nobody would close one that a method stops reading."""

    def __init__(self, stream: AsyncIterator[bytes], parse: Callable[[bytes], Any]) -> None:
        self._stream = stream
        self._parse = parse

    def __aiter__(self) -> _Parsed:
        return self

    async def __anext__(self) -> Any:
        return self._parse(await anext(self._stream))


async def _write(response: Any, context: _Context) -> None:
    """Send `response`. Raise CancelledError where the caller is gone, gRPC's own error where the transport failed."""
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        # A call that ends during a write fails the write and cancels this task, in either order. Wait for the cancel
        # before closing the method: it would interrupt the method's cleanup.
        await asyncio.sleep(_CANCEL_COMES_WITHIN_S)
        raise


def _span(method: str, context: _Context) -> AbstractContextManager[object]:
    if method.startswith("/grpc."):  # probes call health all the time
        return nullcontext()
    parent = context_from_metadata(context.invocation_metadata())
    return tracer.start_as_current_span(method.removeprefix("/"), context=parent, kind=SpanKind.SERVER)


def _single(behaviour: Any, method: str, parsed: Callable[[Any], Any]) -> Any:
    async def call(request: Any, context: _Context) -> Any:
        with _span(method, context):
            try:
                return await behaviour(parsed(request), context)
            except asyncio.CancelledError:
                if (moved := moved_error()) is None:
                    raise
                await abort(context, moved)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await abort(context, as_known(error, method))

    return call


def _streaming(behaviour: Any, method: str, parsed: Callable[[Any], Any]) -> Any:
    async def call(request: Any, context: _Context) -> None:
        # Write responses here instead of yielding them: gRPC leaves the generator of a cancelled call to the garbage
        # collector, and with it the slot and the span that the method holds.
        with _span(method, context):
            try:
                responses = behaviour(parsed(request), context)
                if not inspect.isasyncgen(responses):  # health's Watch writes its responses itself
                    await responses
                    return
                async with aclosing(responses):
                    async for response in responses:
                        await _write(response, context)
            except asyncio.CancelledError:
                if (moved := moved_error()) is None:
                    raise
                await abort(context, moved)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await abort(context, as_known(error, method))

    return call
