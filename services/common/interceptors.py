"""What surrounds every gRPC method of a service: its messages are parsed, its span is opened, its errors leave."""

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
# A method's requests that are no protobuf get one log line in this time.
LOG_EVERY_S = 60.0

logger = logging.getLogger(__name__)
_Context = grpc.aio.ServicerContext[Any, Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Opens a server span that continues the caller's; turns errors into status and ErrorDetail.

    Parses requests itself: grpc.aio answers bytes that are no protobuf with the parser's own words and a traceback.
    `max_fields`: how many fields a large request may hold; None = any number, from callers that are trusted.
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
        # `FromString` of a message's class, as generated stubs register it.
        self._message: Any = getattr(parse, "__self__", None)
        self._logged_s = logged_s

    def of(self, *, stream: bool) -> Callable[[Any], Any]:
        """Return what makes the method's argument from what grpc.aio gives: bytes, or an iterator over bytes."""
        return self.each if stream else self.one

    def one(self, data: bytes) -> Any:
        """Raise BadInput where `data` is no message of the method's type, or holds too many fields."""
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
    """A stream's messages. No generator: nobody would close one that a method leaves early."""

    def __init__(self, stream: AsyncIterator[bytes], parse: Callable[[bytes], Any]) -> None:
        self._stream = stream
        self._parse = parse

    def __aiter__(self) -> _Parsed:
        return self

    async def __anext__(self) -> Any:
        return self._parse(await anext(self._stream))


async def _write(response: Any, context: _Context) -> None:
    """Sends `response`. Raises CancelledError where the caller is gone, grpc's own error where the transport failed."""
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        # A call that ends under a write fails the write and cancels this task, in either order. The cancel is waited
        # for before the method is closed: it would cut short what the method does to clean up.
        await asyncio.sleep(_CANCEL_COMES_WITHIN_S)
        raise


def _span(method: str, context: _Context) -> AbstractContextManager[object]:
    if method.startswith("/grpc."):  # health and reflection are asked all the time
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
        # Written here and not yielded: grpc leaves a generator whose call is cancelled to the garbage collector, and
        # what the method holds (its slot, its span) with it.
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
