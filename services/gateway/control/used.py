"""What subjects used, as far as the control plane's database knows."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import grpc.aio

from antiphon.v1 import control_pb2, control_pb2_grpc
from services.common.channels import open_channel
from services.common.errors import Unavailable
from services.gateway.usage.operations import KnownUse

_TIMEOUT_S = 2.0


class ControlUsed:
    """Asks the control plane at `address`."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def used(self, subjects: Sequence[str]) -> tuple[Sequence[KnownUse], int]:
        """See UsedSource in services/gateway/usage/books.py."""
        request = control_pb2.GetUsedRequest(subjects=subjects)
        try:
            async with open_channel(self._address) as channel:
                stub = control_pb2_grpc.ControlStub(channel)
                response = await stub.GetUsed(request, metadata=self._metadata, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise Unavailable("The control plane is away.") from error
        known = {used.subject: used for used in response.used}
        uses: list[KnownUse] = []
        for subject in subjects:  # one that has used nothing may be left out
            used = known.get(subject, control_pb2.SubjectUsed())
            uses += [KnownUse(subject, "day", _units(used.day)), KnownUse(subject, "month", _units(used.month))]
        return uses, min((used.as_of_unix_ms for used in known.values()), default=0)


def _units(used: control_pb2.Used) -> dict[str, int]:
    return {
        "requests": used.requests,
        "tokens": used.tokens,
        "audio_ms": used.audio_ms,
        "micros": used.money_micros,
    }
