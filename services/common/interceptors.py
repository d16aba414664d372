"""The interceptor of every gRPC method: it parses requests, opens a span and turns exceptions into statuses."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from opentelemetry.trace import SpanKind

from services.common.errors import NO_MESSAGE, BadInput
from services.common.grpc_errors import abort, as_known
from services.common.moved_calls import moved_error
from services.common.open_calls import OpenCalls
from services.common.telemetry.tracing import context_from_metadata, tracer
from services.common.wire import check_field_count

# Health and reflection.
_OWN_SERVICES = "/grpc."
_CANCEL_COMES_WITHIN_S = 5
# The fields of a smaller request are not counted.
_SMALL_BYTES = 1 << 16
# Invalid requests of one method are logged at most this often.
LOG_EVERY_S = 60.0

logger = logging.getLogger(__name__)
_Context = grpc.aio.ServicerContext[Any, Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Opens a server span that continues the caller's. Turns errors into a status and an ErrorDetail.

    A method may answer with the bytes of a message: they go out as they are.

    It parses requests itself: grpc.aio would answer an invalid one with UNKNOWN and log a traceback. `max_fields` is
    how many fields a large request may hold; None = any number, for trusted callers. `open_calls` bounds the calls of
    gRPC's own services, which need no key; None = nothing does.
    """

    def __init__(self, max_fields: int | None = None, open_calls: OpenCalls | None = None) -> None:
        self._max_fields = max_fields
        self._open_calls = open_calls
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
        if self._open_calls is not None and method.startswith(_OWN_SERVICES):
            return _open_handler(handler, method, requests, self._open_calls)
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
        return make(wrapped, None, _serializer(handler.response_serializer))


def _serializer(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda response: response if isinstance(response, bytes) else serialize(response)


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
        return _Parsed(stream, self.one, anext)

    def _log(self) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s.get(self._method, float("-inf")) >= LOG_EVERY_S:
            self._logged_s[self._method] = now_s
            logger.warning("%s was sent bytes that are not a valid protobuf message", self._method)


class _Parsed:
    """The parsed messages of a stream. Not a generator: nobody would close one that a method stops reading."""

    def __init__(
        self,
        stream: AsyncIterable[bytes],
        parse: Callable[[bytes], Any],
        read: Callable[[AsyncIterator[bytes]], Awaitable[bytes]],
    ) -> None:
        self._source = stream
        # None until it is read: gRPC's iterator warns where a method that refuses a call never awaits it.
        self._stream: AsyncIterator[bytes] | None = None
        self._parse = parse
        self._read = read

    def __aiter__(self) -> _Parsed:
        return self

    async def __anext__(self) -> Any:
        if self._stream is None:
            self._stream = aiter(self._source)
        return self._parse(await self._read(self._stream))


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
    if method.startswith(_OWN_SERVICES):  # probes call health all the time
        return nullcontext()
    parent = context_from_metadata(context.invocation_metadata())
    return tracer.start_as_current_span(method.removeprefix("/"), context=parent, kind=SpanKind.SERVER)


def _open_handler(handler: Any, method: str, requests: _Requests, calls: OpenCalls) -> Any:
    """Return a handler of the same method that reads its requests itself, within the limits of `calls`."""
    behaviour = handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary

    async def answer(stream: AsyncIterator[bytes], context: _Context) -> Any:
        """Return the response, or write the responses."""
        try:
            async with calls.call():
                each = _Parsed(stream, requests.one, calls.read)
                request = each if handler.request_streaming else await _only(each, method)
                responses = behaviour(request, context)
                if not inspect.isasyncgen(responses):
                    return await responses
                async with aclosing(responses):
                    async for response in responses:
                        await _write(response, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, as_known(error, method))

    make = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
    return make(answer, None, handler.response_serializer)


async def _only(requests: _Parsed, method: str) -> Any:
    async for request in requests:
        return request
    raise BadInput(f"The call of {method} has no request. Send one.", code=NO_MESSAGE)


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
