"""Asks a service of this machine for its health: `python -m services.common.health_probe [HOST:PORT]`.

For container engines that know no gRPC probe. Without an address it asks the port in ANTIPHON_GRPC_PORT on 127.0.0.1.
Status 0 = SERVING, 1 = any other answer or none in time (standard error says which), 2 = nothing to ask.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 4.0
"""Less than the containers' own timeout of 5 s, so that the reason is told."""


def health_of(address: str, timeout_s: float = TIMEOUT_S) -> str:
    """ "SERVING" or another status' name; "no answer: UNAVAILABLE" where the call failed with that."""
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
        sys.stderr.write("no address is given and ANTIPHON_GRPC_PORT names no port\n")
        return 2
    health = health_of(address)
    if health != "SERVING":
        sys.stderr.write(f"{address}: {health}\n")
    return 0 if health == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
