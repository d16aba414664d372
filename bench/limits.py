"""Measure what accounts add to a request: usage records, and limits.

    python -m bench.limits [--before CHECKOUT] [--rounds 20] [--json bench/results/limits.json]

Two real gateway processes, each with scripted stages in a process and a Redis of its own, answer the same short
questions (8 tokens, streamed, 4 and then 32 at a time). One has no accounts. The other one follows a control plane: one
of its keys has no limits, so that its requests are only recorded, and the other has all limits that there are. The
three take turns in each round, so that what else the machine does is shared by all.

    none       no accounts
    recorded   a record for each request
    limited    the same, and 16 limits that are checked and drawn from

`adds` is the difference to `none`: p50 and p99 of the time from the request to the answer's end, and the gateway's
processor time for a request. `voice_cpu_ms` is the processor time for a spoken answer of --frames frames. `…_share` is
what accounts add to the processor time of `none`, the median of the rounds' own. The clients run in this process, so
that their work is nowhere in it; the accounts' ends are waited for, so that all of theirs is. What a gateway uses while
it has no requests (`idle_cpu_ms_per_s`: its beats, and its watch of the control plane) is taken off: a slow machine has
more of it for each request. The aim is at most 1 ms, and 5 % of a gateway's processor time. With --before the gateways
of another checkout take turns with these, and their cases are named `… before`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from argparse import Namespace
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop

from bench.gateway.client import Connections, text_body, voice_body
from bench.gateway.side import HERE, Side, running
from bench.machine import machine
from bench.report import arguments_parser, report
from services.common.limit_kinds import LimitKind
from services.gateway.usage.books import GATHER_S
from tests.fixtures.wait import wait_until
from tests.gateway.scripted.control_plane import KEY, OTHER_KEY, TOKEN, limit, scripted_control

_TOKENS, _FEW, _MANY = 8, 4, 32
_PLENTY = 10**12
_IDLE_S = 5.0
KINDS = [kind for kind in LimitKind if kind.span != "request"]


@dataclass
class Case:
    """One way to be served, and what was measured of it."""

    side: Side
    key: str
    took_s: list[float] = field(default_factory=list[float])
    # Figure → seconds of the processor for one answer, of each round.
    used_s: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    # Seconds of the processor in a second without requests.
    idle: float = 0.0

    async def rest(self) -> None:
        """Measure what the gateway uses without requests."""
        began_s, before_s = time.monotonic(), self.side.used_s()
        await asyncio.sleep(_IDLE_S)
        self.idle = (self.side.used_s() - before_s) / (time.monotonic() - began_s)

    async def texts(self, count: int, at_once: int) -> None:
        """Ask for short texts. The times are those with a few at once: with many they wait for each other."""
        async with self.side.clients_of(self.key) as clients:

            async def ask_some() -> None:
                for _ in range(count // at_once):
                    took_s = (await clients.ask(text_body(_TOKENS))).took_s
                    if at_once == _FEW:
                        self.took_s.append(took_s)

            async with self._using(f"cpu_ms_{at_once}_at_once", count // at_once * at_once):
                await asyncio.gather(*(ask_some() for _ in range(at_once)))

    async def voices(self, count: int, frames: int) -> None:
        async with self.side.clients_of(self.key) as clients, self._using("voice_cpu_ms", count):
            await asyncio.gather(*(clients.ask(voice_body(frames)) for _ in range(count)))

    @asynccontextmanager
    async def _using(self, figure: str, answers: int) -> AsyncGenerator[None]:
        """Note what the gateway uses for the answers of the block, and for their ends."""
        began_s, before_s = time.monotonic(), self.side.used_s()
        yield
        await asyncio.sleep(3 * GATHER_S)  # the last ends wait so long for others
        used_s = self.side.used_s() - before_s - self.idle * (time.monotonic() - began_s)
        self.used_s.setdefault(figure, []).append(used_s / answers)

    def figures(self) -> dict[str, float]:
        cuts = quantiles(self.took_s, n=100, method="inclusive")
        times = {"p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}
        used = {figure: median(rounds) * 1000 for figure, rounds in self.used_s.items()}
        return times | used | {"idle_cpu_ms_per_s": self.idle * 1000}

    def shares(self, without: Case) -> dict[str, float]:
        """Return what this adds to the processor time of the case that it is compared with."""
        return {
            figure.replace("_ms", "") + "_share": median(
                used / none - 1 for used, none in zip(rounds, without.used_s[figure], strict=True)
            )
            for figure, rounds in self.used_s.items()
        }


async def measured(arguments: Namespace) -> dict[str, dict[str, float]]:
    """Return {case: figures}, and what the others add to `none`."""
    checkouts = {"": HERE} | ({" before": arguments.before.resolve()} if arguments.before else {})
    cases = dict[str, Case]()
    async with AsyncExitStack() as stack:
        for name, checkout in checkouts.items():
            cases |= {case + name: each for case, each in (await _sides(stack, checkout)).items()}
        for case in cases.values():
            await case.texts(40, _FEW)
            case.took_s.clear()
            case.used_s.clear()
        await asyncio.gather(*(case.rest() for case in cases.values()))
        for number in range(arguments.rounds):
            for case in _turned(list(cases.values()), number):
                await case.texts(arguments.texts, _FEW)
                await case.texts(arguments.texts, _MANY)
            if arguments.voices and number % 4 == 0:
                for case in _turned(list(cases.values()), number // 4):
                    await case.voices(arguments.voices, arguments.frames)
    found = {name: case.figures() for name, case in cases.items()}
    for name in checkouts:
        none = "none" + name
        for case in ("recorded" + name, "limited" + name):
            adds = {figure: found[case][figure] - found[none][figure] for figure in found[case]}
            found[f"{case} adds"] = adds | cases[case].shares(cases[none])
    return {name: {figure: round(value, 3) for figure, value in row.items()} for name, row in found.items()}


async def _sides(stack: AsyncExitStack, checkout: Path) -> dict[str, Case]:
    """Run both gateways of a checkout for as long as the stack is open."""
    control = await stack.enter_async_context(scripted_control())
    control.limit("key_1", *(limit(kind, _PLENTY) for kind in KINDS))
    without = await stack.enter_async_context(running(checkout))
    settings = {"API_KEY": "", "CONTROL_ADDRESS": control.address, "CONTROL_TOKEN": TOKEN}
    metered = await stack.enter_async_context(running(checkout, **settings))
    await wait_until(lambda: _knows(metered.clients_of(KEY)))
    return {
        "none": Case(without, "bench-key"),
        "recorded": Case(metered, OTHER_KEY),
        "limited": Case(metered, KEY),
    }


async def _knows(clients: Connections) -> bool:
    async with clients:
        try:
            await clients.ask(text_body(1))
        except RuntimeError:
            return False
        return True


def _turned(cases: Sequence[Case], number: int) -> Sequence[Case]:
    """Begin with another one each round."""
    first = number % len(cases)
    return [*cases[first:], *cases[:first]]


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--before", type=Path, help="folder of another checkout, to be measured beside this one")
    add("--rounds", type=int, default=20, help="(default %(default)s)")
    add("--texts", type=int, default=100, help="short answers of each case a round (default %(default)s)")
    add("--voices", type=int, default=16, help="spoken answers of each case every fourth round (default %(default)s)")
    add("--frames", type=int, default=50, help="frames of a spoken answer, 80 ms each (default %(default)s)")
    given = parser.parse_args()
    found: dict[str, Any] = uvloop.run(measured(given))
    told = {
        "rounds": given.rounds,
        "texts_a_round": given.texts,
        "frames_of_a_voice": given.frames,
        "limits": len(KINDS),
    }
    report({"machine": machine(), **told, **found}, given.json)


if __name__ == "__main__":
    main()
