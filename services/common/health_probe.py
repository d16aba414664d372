"""Probe the health of a service on this machine: `python -m services.common.health_probe [HOST:PORT]`.

For container engines without gRPC probes. The default address is 127.0.0.1 with the port of ANTIPHON_GRPC_PORT. Exit
status: 0 = SERVING, 1 = any other answer or none in time (standard error says which), 2 = no address.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 4.0
"""Less than the containers' own timeout of 5 s, so that the reason is printed."""


def health_of(address: str, timeout_s: float = TIMEOUT_S) -> str:
    """Return "SERVING", another status, or "no answer: UNAVAILABLE" where the call failed with that code."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            status: grpc.StatusCode = error.code()  # pyright: ignore[reportAttributeAccessIssue]  # of every failed call
            return f"no answer: {status.name}"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def main() -> int:
    port = os.environ.get("ANTIPHON_GRPC_PORT", "0")
    address = sys.argv[1] if len(sys.argv) > 1 else f"127.0.0.1:{port}"
    if address.endswith(":0"):
        sys.stderr.write("no address: give HOST:PORT or set ANTIPHON_GRPC_PORT\n")
        return 2
    health = health_of(address)
    if health != "SERVING":
        sys.stderr.write(f"{address}: {health}\n")
    return 0 if health == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
