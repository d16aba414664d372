"""What comes with a request beside its body: its trace, how long the client waits, and its memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from opentelemetry import context as otel_context
from starlette.types import Scope

from services.common.errors import BadInput
from services.common.http.respond import header
from services.common.telemetry.tracing import context_from_headers
from services.gateway.memory import GatewayMemory, RequestMemory

TIMEOUT_HEADER = b"x-request-timeout-ms"
MEMORY = "memory"
"""Of a scope's state: the request's RequestMemory, where it holds some before its body is read."""


@contextmanager
def trace_of(scope: Scope) -> Generator[None]:
    """Make what runs inside the block part of the caller's trace."""
    caller = {
        key.decode("latin-1"): value.decode("latin-1")
        for key, value in scope["headers"]
        if key in (b"traceparent", b"tracestate")
    }
    token = otel_context.attach(context_from_headers(caller))
    try:
        yield
    finally:
        otel_context.detach(token)


def timeout_of(scope: Scope) -> float | None:
    """Return the client's timeout in seconds; None = it has none. Raise BadInput."""
    asked = header(scope, TIMEOUT_HEADER)
    if asked is None:
        return None
    if not asked.isdigit() or len(asked) > 12 or int(asked) == 0:
        name = TIMEOUT_HEADER.decode()
        raise BadInput(f"Invalid '{name}': it must be a whole number of milliseconds, at least 1.", param=name)
    return int(asked) / 1000


@asynccontextmanager
async def memory_of(scope: Scope, memory: GatewayMemory) -> AsyncGenerator[RequestMemory]:
    """Give back whatever the request holds at the end of the block. Whoever gave it memory does so itself."""
    given: RequestMemory | None = scope["state"].get(MEMORY)
    if given is not None:
        yield given
        return
    async with memory.request(scope["state"]["principal"].tenant) as own:
        yield own
