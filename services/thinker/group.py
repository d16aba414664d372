"""A thinker on several machines: how its leader and its followers know of each other.

Each follower connects to the leader, says who it is, and both hold the connection for as long as they live. vLLM
0.32.0 does not tell: a follower whose leader is gone waits for the next step for ever, and a leader whose follower is
gone waits five minutes for the step's answer. A machine that dies without a word is noticed by keepalive.
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
    """The leader's end. `lost` is set when a follower that had joined is gone."""

    def __init__(self, settings: ThinkerSettings) -> None:
        self._settings = settings
        self._joined: dict[int, asyncio.StreamWriter] = {}
        self._dismissed = False
        self.lost = asyncio.Event()

    @property
    def joined(self) -> frozenset[int]:
        """Ranks of the followers that are there."""
        return frozenset(self._joined)

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Holds one follower's connection until it ends."""
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
        except (ValueError, TimeoutError, OSError):  # no follower: whatever it is, it learns nothing
            return
        finally:
            writer.close()

    def dismiss(self) -> None:
        """Lets all followers go: none is missed from now on."""
        self._dismissed = True
        for writer in self._joined.values():
            writer.close()

    def _refusal(self, told: Any) -> str:
        """Why what says this is no follower of this leader; "" where it is one."""
        if not isinstance(told, dict):
            return "no follower"
        rank = told.get("node_rank")
        if not isinstance(rank, int) or not 0 < rank < self._settings.nodes:
            return f"node_rank: {rank} is not between 1 and {self._settings.nodes - 1}"
        if rank in self._joined:
            return f"node_rank: {rank} has joined already"
        for name in _ALIKE:
            if told.get(name) != (own := getattr(self._settings, name)):
                return f"{name}: {told.get(name)}, and the leader has {own}"
        return ""


@asynccontextmanager
async def leading(settings: ThinkerSettings) -> AsyncGenerator[Leader]:
    """Listens for followers while the block runs, where there are any. Raises BadInput where the port is taken."""
    leader = Leader(settings)
    if settings.nodes == 1:
        yield leader
        return
    try:
        server = await asyncio.start_server(leader.attend, port=settings.followers_port)
    except OSError:
        raise BadInput(f"port {settings.followers_port}, one more, is taken", param="master_port") from None
    try:
        yield leader
    finally:
        server.close()
        leader.dismiss()


@asynccontextmanager
async def following(settings: ThinkerSettings) -> AsyncGenerator[asyncio.Event]:
    """Joins the leader, waiting until there is one; yields what is set when it is gone.

    Raises BadInput where the leader refuses, naming the setting that differs.
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
        except OSError as error:  # also a name that is not there yet
            if not told:
                logger.info("waiting for the leader at %s: %s", settings.master_address, error)
            told = True
            await asyncio.sleep(_RETRY_S)


async def _until_gone(reader: asyncio.StreamReader) -> None:
    """Returns when the other end is closed, or silent for longer than the keepalive allows."""
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
