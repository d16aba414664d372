"""Deadlines between hosts: gRPC carries them as seconds that are left, so hosts' clocks need not agree."""

from __future__ import annotations

import time
from typing import Any, cast

import grpc.aio

from antiphon.v1 import common_pb2


def by_this_clock(context: common_pb2.RequestContext, call: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Write the call's own deadline into `context`, by this host's clock; the caller's clock may be minutes off.

    A call without a deadline leaves it as it is.
    """
    left_s = cast(float | None, call.time_remaining())  # None where the caller set no deadline
    if left_s is not None:
        context.deadline_unix_ms = round((time.time() + max(left_s, 0.0)) * 1000)
