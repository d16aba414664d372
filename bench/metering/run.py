"""One run: clients ask for all planned turns while one process after the other is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.metering.clients import NotAskedError, ask
from bench.metering.losses import Loss, lose, losses
from bench.metering.plan import Plan, plans
from bench.metering.received import Received
from bench.metering.system import System, running
from services.control.store.models import UsageRow
from tests.fixtures.wait import wait_until

_AGAIN_S = 0.3
_ANOTHER = 1_000_000
"""Added to the number of a plan that is asked again."""


@dataclass(frozen=True)
class Options:
    """`hurries`: the time after which a silent gateway is taken for dead passes at once."""

    turns: int
    at_once: int
    database: str
    seed: int = 0
    with_losses: bool = True
    gateways_lost: int = 3
    hurries: bool = False


@dataclass
class Result:
    received: Sequence[Received]
    rows: Sequence[UsageRow]
    sums: dict[str, Any]
    rejected: int
    losses: Sequence[Loss]


@dataclass
class Load:
    """Clients that ask for one turn after the other, of all gateways in turns."""

    system: System
    asked: dict[int, Plan]
    waiting: list[Plan]
    received: list[Received] = field(default_factory=list[Received])
    _next_gateway: int = 0

    async def client(self) -> None:
        while self.waiting:
            plan = self.waiting.pop()
            if (again := await self._ask(plan)) is not None:
                await asyncio.sleep(_AGAIN_S)
                self.asked[again.number] = again
                self.waiting.insert(0, again)

    async def _ask(self, plan: Plan) -> Plan | None:
        """Return another plan like it, where it was refused."""
        self._next_gateway += 1
        gateway = self.system.gateways[self._next_gateway % len(self.system.gateways)]
        again = replace(plan, number=plan.number + _ANOTHER, turn_id="", has_acted=asyncio.Event())
        if gateway.has_ended:
            return again
        try:
            received = await ask(plan, gateway, self.system.keys[plan.key][1])
        except NotAskedError:
            return again
        self.received.append(received)
        return again if received.ended == "refused" else None


async def run(options: Options, say: Callable[[str], None]) -> Result:
    waiting = list(plans(options.turns, options.seed))
    asked = {plan.number: plan for plan in waiting}
    lost: list[Loss] = []
    async with running(options.database, asked) as system:
        await system.make_keys(waiting)
        load = Load(system, asked, waiting)
        async with asyncio.TaskGroup() as tasks:
            for number in range(options.at_once):
                tasks.create_task(load.client(), name=f"client {number}")
            kinds = losses(system, options.gateways_lost) if options.with_losses else []
            for place, (what, kill) in enumerate(kinds, 1):
                due = options.turns * place // (len(kinds) + 1)
                await wait_until(lambda due=due: len(load.received) >= due or not load.waiting)
                lost.append(await lose(system, what, kill))
                say(f"{what} was lost for {lost[-1].ended_s - lost[-1].began_s:.1f} s after {due} turns")
        say(f"{len(load.received)} requests are over")
        if options.hurries:
            await system.forget_dead()
        await wait_until(system.all_is_written)
        return Result(load.received, await system.rows(), await system.sums(), await system.rejected(), lost)
