"""Which turns went on elsewhere, and when: read from the gateway's spans, which a collector here receives."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

# The gateway's span of a whole turn. It ends last, and is exported last.
_TURN = "antiphon.gateway.turn"


@dataclass(frozen=True)
class Resume:
    """A stage of a turn went on with another worker. `at_s`: Unix time, seconds."""

    trace_id: str
    stage: str
    cause: str
    at_s: float


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP server that keeps the resumes of the spans it receives. `ended`: the trace ids of turns that ended, with
    all their resumes."""

    endpoint: str = ""
    ended: set[str] = field(default_factory=set[str])
    resumes: list[Resume] = field(default_factory=list[Resume])

    def Export(  # noqa: N802  # OTLP's name
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    for event in span.events:
                        if event.name == "resume":
                            said = {pair.key: pair.value.string_value for pair in event.attributes}
                            at_s = event.time_unix_nano / 1e9
                            resume = Resume(span.trace_id.hex(), said["antiphon.stage"], said["antiphon.cause"], at_s)
                            self.resumes.append(resume)
                    if span.name == _TURN:
                        self.ended.add(span.trace_id.hex())
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def collecting() -> Generator[Collector]:
    """Serve a collector inside the block."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait()
