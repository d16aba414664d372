"""Tells the control plane which keys this gateway refused, for its audit log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import grpc
import grpc.aio

from antiphon.v1 import control_pb2, control_pb2_grpc
from services.common.channels import open_channel
from services.common.errors import Unauthenticated
from services.common.key_prefixes import public_part
from services.gateway.auth import bearer

SOON_S = 5.0
"""From the first refusal after a pause to its report."""
PAUSE_S = 55.0
"""After a report: a program that tries again and again is one row a minute, not one a try."""
MOST = 64
"""Keys that are told apart in one report: strangers must not fill memory."""
OTHERS = "others"
"""The code of all that are over."""
_TIMEOUT_S = 5.0
_MOST_PATH_CHARS = 255
# All else would come again: an older release has no such call, and what can't be written never can.
_PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

logger = logging.getLogger(__name__)


class RefusedKeys:
    """`note` each, and `run` in the background. What was noted in the last minute before the end may not be told."""

    def __init__(self, address: str, token: str, gateway_id: str, clock: Callable[[], float] = time.time) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._gateway_id = gateway_id
        self._clock = clock
        self._refused: dict[tuple[str, str], control_pb2.RefusedKey] = {}
        self._some = asyncio.Event()

    def note(
        self, authorization: bytes | None, error: Unauthenticated, *, path: str, remote: str, request_id: str = ""
    ) -> None:
        """Note a request that was refused for what it showed. Nothing of it is kept but a key's public part."""
        name = public_part(bearer(authorization).decode("latin-1")), error.code
        if name not in self._refused and len(self._refused) >= MOST:
            name = "", OTHERS
        count = self._refused[name].count if name in self._refused else 0
        self._refused[name] = control_pb2.RefusedKey(
            prefix=name[0],
            code=name[1],
            count=count + 1,
            last_unix_ms=round(self._clock() * 1000),
            request_id=request_id,
            path=path[:_MOST_PATH_CHARS].encode(errors="replace").decode(),  # whatever a client may send
            remote=remote,
        )
        self._some.set()

    async def run(self) -> None:
        """Report until cancelled. What can't be told while the control plane is away is told later."""
        while True:
            await self._some.wait()
            await asyncio.sleep(SOON_S)
            self._some.clear()
            told, self._refused = self._refused, {}
            try:
                await self._report(list(told.values()))
            except grpc.aio.AioRpcError as error:
                if error.code() in _PASSING:
                    self._take_back(told)
                else:
                    logger.warning("the control plane does not take refused keys: %s", error.code().name)
            await asyncio.sleep(PAUSE_S)

    async def _report(self, refused: list[control_pb2.RefusedKey]) -> None:
        request = control_pb2.ReportRefusedKeysRequest(gateway=self._gateway_id, refused=refused)
        async with open_channel(self._address) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            await stub.ReportRefusedKeys(request, metadata=self._metadata, timeout=_TIMEOUT_S)

    def _take_back(self, told: dict[tuple[str, str], control_pb2.RefusedKey]) -> None:
        for name, before in told.items():
            if name in self._refused:
                self._refused[name].count += before.count
            elif len(self._refused) < MOST:
                self._refused[name] = before
        self._some.set()
