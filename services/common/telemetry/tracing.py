"""OpenTelemetry spans: their exporter, and the trace context in gRPC metadata, HTTP headers and queue tickets.

The W3C trace context travels as `traceparent` in the metadata, and as the same string inside a ticket. Spans and
attributes are named `antiphon.<stage>.<what>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_HEADERS = ("traceparent", "tracestate")
_LONGEST_HEADER = 512
_MEMBER = re.compile(
    r"(?:[a-z][_0-9a-z\-*/]{0,255}|[a-z0-9][_0-9a-z\-*/]{0,240}@[a-z][_0-9a-z\-*/]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]",
    re.ASCII,
)
tracer = trace.get_tracer("antiphon")
_propagator = TraceContextTextMapPropagator()
_NO_SPAN = nullcontext(trace.INVALID_SPAN)
_exports = False


def start_tracing(service: str, otlp_endpoint: str) -> TracerProvider | None:
    """Send this process's spans to an OTLP/gRPC collector. Without an endpoint spans cost next to nothing.

    The caller shuts the provider down at exit, which flushes it.
    """
    if not otlp_endpoint:
        return None
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    exporter = OTLPSpanExporter(endpoint=otlp_endpoint, insecure=otlp_endpoint.startswith("http://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    global _exports
    _exports = True
    return provider


def span(name: str) -> AbstractContextManager[trace.Span]:
    """Return a span of this process, the current one inside the block. Where nothing exports spans the caller's stays
    that: to make one that nobody sees would cost each turn as much as a call of Redis."""
    return tracer.start_as_current_span(name) if _exports else _NO_SPAN


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """Return the current span as gRPC metadata, for calls to other services."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return tuple(carrier.items())


def context_from_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> Context:
    """Return the caller's span from a call's invocation metadata."""
    return context_from_headers({k: v for k, v in metadata or () if isinstance(v, str)})


def context_from_headers(headers: Mapping[str, str]) -> Context:
    """Return the caller's span from HTTP headers (lower-case names).

    Headers that are malformed or too long are dropped: the propagator would log them verbatim.
    """
    if "traceparent" not in headers:
        return Context()
    carrier = {name: headers[name] for name in _HEADERS if len(headers.get(name, "")) in range(1, _LONGEST_HEADER + 1)}
    if not _is_tracestate(carrier.get("tracestate", "")):
        del carrier["tracestate"]
    return _propagator.extract(carrier)


def _is_tracestate(value: str) -> bool:
    """Return whether `value` is a W3C tracestate, or empty."""
    members = [member.strip(" \t") for member in value.split(",")] if value else []
    keys = {member.partition("=")[0] for member in members}
    return len(keys) == len(members) <= 32 and all(_MEMBER.fullmatch(member) for member in members)
