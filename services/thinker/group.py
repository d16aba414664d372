"""A thinker on several machines: how its leader and its followers notice each other's end.

Each follower connects to the leader and sends its rank. Both hold the connection for as long as they live, and a TCP
keepalive notices a machine that dies silently. vLLM 0.32.0 has no such check: a follower that lost its leader waits for
the next step for ever, and a leader that lost a follower waits five minutes for the step's result.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from services.common.errors import BadInput
from services.thinker.settings import ThinkerSettings

logger = logging.getLogger(__name__)

_ALIKE = ("nodes", "tensor_parallel_size", "pipeline_parallel_size", "max_model_len", "model_kind", "dtype")
"""Settings that the leader and its followers must agree on."""
_RETRY_S = 1.0
_HELLO_S = 10.0
_KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}


class Leader:
    """The leader's end. `lost` is set when a follower that has joined goes away."""

    def __init__(self, settings: ThinkerSettings) -> None:
        self._settings = settings
        self._joined: dict[int, asyncio.StreamWriter] = {}
        self._dismissed = False
        self.lost = asyncio.Event()

    @property
    def joined(self) -> frozenset[int]:
        """Ranks of the connected followers."""
        return frozenset(self._joined)

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hold one follower's connection until it ends."""
        _keep_alive(writer)
        try:
            async with asyncio.timeout(_HELLO_S):
                told = json.loads(await reader.readline())
            refusal = self._refusal(told)
            writer.write(json.dumps({"refused": refusal}).encode() + b"\n")
            if refusal:
                logger.error("a follower was refused: %s", refusal)
                return
            rank: int = told["node_rank"]
            self._joined[rank] = writer
            logger.info("follower %d has joined", rank)
            await _until_gone(reader)
            del self._joined[rank]
            if not self._dismissed:
                logger.error("follower %d is gone", rank)
                self.lost.set()
        except (ValueError, TimeoutError, OSError):  # not a follower: close without an answer
            return
        finally:
            writer.close()

    def dismiss(self) -> None:
        """Close all connections. A follower that goes away from now on is not reported as lost."""
        self._dismissed = True
        for writer in self._joined.values():
            writer.close()

    def _refusal(self, told: Any) -> str:
        """Return why the sender of `told` is not a follower of this leader, or "" where it is one."""
        if not isinstance(told, dict):
            return "this is not a follower's message"
        rank = told.get("node_rank")
        if not isinstance(rank, int) or not 0 < rank < self._settings.nodes:
            return f"node_rank: {rank} is not between 1 and {self._settings.nodes - 1}"
        if rank in self._joined:
            return f"node_rank: a follower with rank {rank} has joined already; give each machine its own rank"
        for name in _ALIKE:
            if told.get(name) != (own := getattr(self._settings, name)):
                return f"{name}: the follower has {told.get(name)}, the leader {own}; set both alike"
        return ""


@asynccontextmanager
async def leading(settings: ThinkerSettings) -> AsyncGenerator[Leader]:
    """Listen for followers while the block runs, if `nodes` > 1. Raise BadInput where the port is in use."""
    leader = Leader(settings)
    if settings.nodes == 1:
        yield leader
        return
    try:
        server = await asyncio.start_server(leader.attend, port=settings.followers_port)
    except OSError:
        raise BadInput(
            f"port {settings.followers_port} (master_port + 1) is in use; choose another", param="master_port"
        ) from None
    try:
        yield leader
    finally:
        server.close()
        leader.dismiss()


@asynccontextmanager
async def following(settings: ThinkerSettings) -> AsyncGenerator[asyncio.Event]:
    """Wait for the leader and join it. Yield an event that is set when the leader goes away.

    Raise BadInput where the leader refuses this follower; `param` names the setting that differs.
    """
    reader, writer = await _reach(settings)
    try:
        _keep_alive(writer)
        hello = {name: getattr(settings, name) for name in ("node_rank", *_ALIKE)}
        writer.write(json.dumps(hello).encode() + b"\n")
        answer = await reader.readline()
        refusal = json.loads(answer)["refused"] if answer else "the leader ended"
        if refusal:
            param, _, message = refusal.rpartition(": ")
            raise BadInput(message, param=param or "master_address")
        gone = asyncio.Event()

        async def watch() -> None:
            await _until_gone(reader)
            gone.set()

        watching = asyncio.create_task(watch(), name="leader-watch")
        try:
            yield gone
        finally:
            watching.cancel()
    finally:
        writer.close()


async def _reach(settings: ThinkerSettings) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    told = False
    while True:
        try:
            return await asyncio.open_connection(settings.master_address, settings.followers_port)
        except OSError as error:  # including a host name that DNS does not have yet
            if not told:
                logger.info("waiting for the leader at %s: %s", settings.master_address, error)
            told = True
            await asyncio.sleep(_RETRY_S)


async def _until_gone(reader: asyncio.StreamReader) -> None:
    """Return when the other end closes, or stays silent for longer than the keepalive allows."""
    try:
        while await reader.read(1024):
            pass
    except OSError:
        pass


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    connection: Any = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
