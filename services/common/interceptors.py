"""What surrounds every gRPC method of a service: its span, and the one place where an exception leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from opentelemetry.trace import SpanKind

from services.common.grpc_errors import abort, as_known
from services.common.telemetry.tracing import context_from_metadata, tracer

_CANCEL_COMES_WITHIN_S = 5


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Opens a server span that continues the caller's; turns errors into status and ErrorDetail."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith("/grpc."):  # health and reflection look after themselves
            return handler
        if handler.response_streaming:
            wrapped = _streaming(handler.stream_stream or handler.unary_stream, method)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            wrapped = _single(handler.stream_unary or handler.unary_unary, method)
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        return make(wrapped, handler.request_deserializer, handler.response_serializer)


async def _write(response: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Sends `response`. Raises CancelledError where the caller is gone, grpc's own error where the transport failed."""
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        # A call that ends under a write fails the write and cancels this task, in either order. The cancel is waited
        # for before the method is closed: it would cut short what the method does to clean up.
        await asyncio.sleep(_CANCEL_COMES_WITHIN_S)
        raise


def _span(method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    parent = context_from_metadata(context.invocation_metadata())
    return tracer.start_as_current_span(method.removeprefix("/"), context=parent, kind=SpanKind.SERVER)


def _single(behaviour: Any, method: str) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        with _span(method, context):
            try:
                return await behaviour(request, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:
                await abort(context, as_known(error, method))

    return call


def _streaming(behaviour: Any, method: str) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        # Written here and not yielded: grpc leaves a generator whose call is cancelled to the garbage collector, and
        # what the method holds (its slot, its span) with it.
        with _span(method, context):
            try:
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        await _write(response, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:
                await abort(context, as_known(error, method))

    return call
