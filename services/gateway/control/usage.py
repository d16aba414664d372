"""What a project used, as the control plane sums it up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc.aio

from antiphon.v1 import control_pb2, control_pb2_grpc, usage_pb2
from services.common.channels import ChannelPool
from services.common.errors import Fault, TimedOut, Unavailable, WorkerLost
from services.common.grpc_errors import error_from_rpc
from services.common.usage_sums import UsageReply, usage_reply

_TIMEOUT_S = 15.0
_RETRY_S = 2.0
_GROUPS = ("day", "organisation_id", "project_id", "tenant", "key_id", "model")
_SUMS = ("requests", "derailed_requests", "spoken_again", "cost_micros")
_AMOUNTS = tuple(field.name for field in usage_pb2.Amounts.DESCRIPTOR.fields)


class ControlUsage:
    """See UsageSource in services/gateway/http/usage.py. Asks the control plane at `address`."""

    def __init__(self, address: str, token: str, channels: ChannelPool) -> None:
        self._address = address
        self._channels = channels
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def sums(self, project_id: str, query: Mapping[str, str]) -> tuple[list[UsageReply], str]:
        request = control_pb2.SumUsageRequest(project_id=project_id, query=query)
        make: Callable[[grpc.aio.Channel], control_pb2_grpc.ControlAsyncStub] = control_pb2_grpc.ControlStub  # pyright: ignore[reportAssignmentType]
        stub = self._channels.stub(self._address, make)
        try:
            answer = await stub.SumUsage(request, metadata=self._metadata, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            known = error_from_rpc(error, "control plane")
            if isinstance(known, WorkerLost | TimedOut | Fault):
                raise Unavailable(
                    "Usage is away at the moment.", code="usage_unavailable", retry_after_s=_RETRY_S
                ) from error
            raise known from None
        return [_row(row) for row in answer.sums], answer.next_after


def _row(row: control_pb2.UsageSum) -> UsageReply:
    told: Any = row  # its stub has a HasField for each name
    group = {name: getattr(row, name) for name in _GROUPS if told.HasField(name)}
    amounts = {name: int(getattr(row.amounts, name)) for name in _AMOUNTS}
    return usage_reply(group, {**amounts, **{name: int(getattr(row, name)) for name in _SUMS}})
