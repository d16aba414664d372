"""Measure what the gateway itself costs: a real gateway process and Redis, with scripted stages in other processes.

    python -m bench.gateway [--before CHECKOUT] [--rounds 3] [--parts turns,frames,voices,answers]
                            [--json bench/results/gateway.json]

    turns     processor time of the gateway for one short text answer of 8 tokens, streamed
    frames    processor time for one frame of speech (80 ms) of 32 voices
    voices    at each of --voices speaking at once, 25 starts a second: how late frames come (p99 < 20 ms is the aim)
    answers   at each of --answers short answers a second: how long they take (p99 < 50 ms is the aim)

The stages answer at once and speak in real time, so what a client waits for is the gateway, Redis and gRPC. Processor
time depends least on what else the machine does; lateness is only as good as the machine is idle, whose load average
and whose talker's own lateness stand beside it. With --before the gateway of another checkout takes part in each round,
with a Redis and stages of its own.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.gateway.measure import Figures, frames, paced_voices, short_answers, short_turns
from bench.gateway.side import HERE, Side, running
from bench.machine import machine
from bench.report import arguments_parser, report

PARTS = ("turns", "frames", "voices", "answers")
_WARM_UP_TURNS, _TURNS = 60, 240
_VOICES, _FRAMES_S = 32, 6.0
_LEVEL_S = 6.0


async def measured(arguments: Namespace) -> dict[str, Any]:
    """Return {side: {part: figures}}."""
    checkouts = {"now": HERE} | ({"before": arguments.before.resolve()} if arguments.before else {})
    parts, found = arguments.parts.split(","), {name: dict[str, Any]() for name in checkouts}
    async with AsyncExitStack() as stack:
        sides = {name: await stack.enter_async_context(running(checkout)) for name, checkout in checkouts.items()}
        for side in sides.values():
            await short_turns(side, _WARM_UP_TURNS)
        for part, measure in (
            ("turns", lambda side: short_turns(side, _TURNS)),
            ("frames", lambda side: frames(side, _VOICES, _FRAMES_S)),
        ):
            if part in parts:
                for name, figures in (await _in_turn(sides, measure, arguments.rounds)).items():
                    found[name] |= figures
        for part, levels, measure_at in (
            ("voices", arguments.voices, lambda side, level: paced_voices(side, int(level), _LEVEL_S)),
            ("answers", arguments.answers, lambda side, level: short_answers(side, level, _LEVEL_S)),
        ):
            if part in parts:
                for name, side in sides.items():
                    found[name][part] = [_rounded(await measure_at(side, float(level))) for level in levels.split(",")]
    return found


async def _in_turn(
    sides: dict[str, Side], measure: Callable[[Side], Awaitable[Figures]], rounds: int
) -> dict[str, Figures]:
    """Return each side's medians over rounds. The side that goes first changes from round to round."""
    rows: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            rows[name].append(await measure(sides[name]))
    return {
        name: _rounded({figure: median(row[figure] for row in measured) for figure in measured[0]})
        for name, measured in rows.items()
    }


def _rounded(figures: Figures) -> Figures:
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--before", type=Path, help="folder of another checkout, to be measured beside this one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default=",".join(PARTS), help="which figures")
    parser.add_argument("--voices", default="50,100,200", help="how many speak at once")
    parser.add_argument("--answers", default="25,50,100", help="how many short answers a second")
    arguments = parser.parse_args()
    figures = uvloop.run(measured(arguments))
    report({"machine": machine(), "rounds": arguments.rounds, **figures}, arguments.json)


if __name__ == "__main__":
    main()
