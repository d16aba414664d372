"""What is killed in a run, and in which order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from bench.metering.system import System
from tests.fixtures.postgresql import PostgreSqlServer
from tests.fixtures.wait import wait_until

_AWAY_S = 0.5
_MENDED = "Redis had lost its memory"


@dataclass(frozen=True)
class Loss:
    """What was lost, and from when to when, seconds of time.monotonic()."""

    what: str
    began_s: float
    ended_s: float


Kill = Callable[[System], Awaitable[None]]


async def kill_control(system: System) -> None:
    await system.control.kill()
    await system.control.start()


def restart_postgresql(server: PostgreSqlServer) -> Kill:
    async def kill(system: System) -> None:
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(_AWAY_S)
        await asyncio.to_thread(server.start)

    return kill


async def empty_redis(system: System) -> None:
    """Kill Redis. It comes back without its memory. Return once all gateways have put back what they know."""
    mended = [gateway.told(_MENDED) for gateway in system.gateways]
    system.store.kill()
    await asyncio.sleep(_AWAY_S)
    await asyncio.to_thread(system.store.start)
    await wait_until(
        lambda: all(gateway.told(_MENDED) > before for gateway, before in zip(system.gateways, mended, strict=True))
    )
    await wait_until(lambda: system.all_know("last"))


def kill_gateway(number: int) -> Kill:
    async def kill(system: System) -> None:
        await system.gateways[number].kill()
        await system.gateways[number].start()

    return kill


def losses(system: System, gateways: int) -> Sequence[tuple[str, Kill]]:
    """Return one of each kind, and `gateways` of gateways. Redis comes first: what it holds of a gateway that died is
    nowhere else until another gateway has written it down."""
    return [
        ("control", kill_control),
        *([("postgresql", restart_postgresql(system.postgresql))] if system.postgresql is not None else []),
        ("redis", empty_redis),
        *((f"gateway-{number + 1}", kill_gateway(number)) for number in range(gateways)),
    ]


async def lose(system: System, what: str, kill: Kill) -> Loss:
    began_s = time.monotonic()
    await kill(system)
    return Loss(what, began_s, time.monotonic())
