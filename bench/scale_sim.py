"""Replay loads against the scaler's real policy, the HPA on CPU, and fixed numbers of replicas.

    python -m bench.scale_sim [--stage thinker] [--json bench/results/scale_sim.json]

The hold time of a slot comes from the latency table of Qwen3-Omni's technical report, at 6 streams with audio (there
theoretical, on unnamed hardware), and from an assumed length of answers: --tokens, --speech-s. If you have measured
your own hold time, set --hold-s. The start time of a replica is an assumption, too: --start-s. The same arguments give
the same figures.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.scaling.controllers import Controller, CpuHpa, Fixed, Policy
from bench.scaling.simulate import Figures, simulate
from bench.scaling.traces import FLEET, SHAPES, Trace, draw
from services.scaler.policy import Terms

FIRST_TOKEN_S, TOKENS_PER_S = 0.673, 53.0
REAL_TIME_FACTOR = 0.66
FLEET_MAX_WAITING = 65_536


def main() -> None:
    arguments = _parser().parse_args()
    hold_s = arguments.hold_s or hold_of(arguments.stage, arguments.tokens, arguments.speech_s)
    print(f"{arguments.stage}: {arguments.slots} slots a replica, held for {hold_s:.1f} s in the mean; ", end="")
    print(f"a replica starts in {arguments.start_s:g} s and has {arguments.gpus:g} GPUs\n")
    rows: list[dict[str, Any]] = []
    for shape in (*SHAPES, FLEET):
        replicas = arguments.fleet if shape is FLEET else arguments.replicas
        peak_slots = replicas * arguments.slots * arguments.utilization
        trace = draw(shape, peak_slots=peak_slots, hold_s=hold_s, hold_cv=arguments.hold_cv, seed=arguments.seed)
        initial = math.ceil(shape.rate(0.0) * replicas)
        figures = [
            simulate(
                trace,
                controller,
                initial=initial,
                slots=arguments.slots,
                start_s=arguments.start_s,
                gpus=arguments.gpus,
                max_waiting=max(arguments.max_waiting, FLEET_MAX_WAITING if shape is FLEET else 0),
                deadline_s=arguments.deadline_s,
            )
            for controller in controllers(trace, replicas, arguments)
        ]
        print(table(trace, figures))
        rows += [{"trace": trace.name, **asdict(row)} for row in figures]
    print(summary(rows))
    before = json.loads(arguments.before.read_text())["figures"] if arguments.before else []
    if before:
        print(f"\n{changes(before, rows)}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        given = {key: value for key, value in vars(arguments).items() if key not in ("json", "before")}
        document = {"arguments": {**given, "hold_s": hold_s}, "figures": rows, "before": before}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def hold_of(stage: str, tokens: float, speech_s: float) -> float:
    """Return the seconds that one answer holds a slot."""
    if stage == "thinker":
        return FIRST_TOKEN_S + tokens / TOKENS_PER_S
    return REAL_TIME_FACTOR * speech_s


def controllers(trace: Trace, replicas: int, arguments: argparse.Namespace) -> Sequence[Controller]:
    most, slots, target = 2 * replicas, arguments.slots, arguments.utilization
    mean = math.ceil(trace.mean_slots / slots / target)
    return (
        Policy(Terms(slots, most, 0, target), "Antiphon, from 0"),
        Policy(Terms(slots, most, 1, target), "Antiphon, from 1"),
        CpuHpa(most, target=target, name=f"HPA on CPU at {target:.0%}"),
        CpuHpa(most, target=0.5, name="HPA on CPU at 50%"),
        Fixed("fixed at the peak", replicas),
        Fixed("fixed at the mean", mean),
    )


def table(trace: Trace, figures: Sequence[Figures]) -> str:
    lines = [
        f"**{trace.name}**: {trace.about}; {len(trace.arrivals_s)} requests",
        "",
        "| | wait p50, s | p95 | p99 | refused | GPU hours | of 1000 answers | most replicas | scalings |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.controller} | {row.wait_p50_s:.1f} | {row.wait_p95_s:.1f} | {row.wait_p99_s:.1f} "
        f"| {row.refused / max(1, row.requests):.1%} | {row.gpu_hours:.1f} "
        f"| {row.gpu_hours_of_1000_answers:.2f} | {row.most_replicas} | {row.scalings} |"
        for row in figures
    ]
    return "\n".join([*lines, ""])


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for docs/autoscaling.md, from the figures that --json writes."""
    lines = [
        "| load | | wait p50, s | p95 | p99 | refused | GPU hours | of 1000 answers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    named = ""
    for row in rows:
        lines.append(
            f"| {row['trace'] if row['trace'] != named else ''} | {row['controller']} | {row['wait_p50_s']:.1f} "
            f"| {row['wait_p95_s']:.1f} | {row['wait_p99_s']:.1f} | {row['refused'] / max(1, row['requests']):.1%} "
            f"| {row['gpu_hours']:.1f} | {row['gpu_hours_of_1000_answers']:.2f} |"
        )
        named = row["trace"]
    return "\n".join(lines)


def changes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    """Return the changes against another policy, as a table for docs/autoscaling.md."""
    lines = [
        "| load | | most replicas | scalings | wait p95, s | p99 | refused | GPU hours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for old, new in zip(before, after, strict=True):
        if new["controller"].startswith("Antiphon"):
            start = new["controller"].rpartition(", ")[2]
            cells = zip(_change_cells(old), _change_cells(new), strict=True)
            lines.append(f"| {new['trace']} | {start} | " + " | ".join(f"{was} → {now}" for was, now in cells) + " |")
    return "\n".join(lines)


def _change_cells(row: Mapping[str, Any]) -> list[str]:
    refused = f"{row['refused'] / max(1, row['requests']):.1%}"
    waits = (f"{row['wait_p95_s']:.0f}", f"{row['wait_p99_s']:.0f}")
    return [f"{row['most_replicas']}", f"{row['scalings']}", *waits, refused, f"{row['gpu_hours']:.1f}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.scale_sim", description="Simulates autoscaling.")
    parser.add_argument("--stage", choices=("thinker", "talker"), default="thinker")
    parser.add_argument("--replicas", type=int, default=16, help="that the peak of a trace needs")
    parser.add_argument("--fleet", type=int, default=3000, help="that the peak of the last trace needs")
    parser.add_argument("--slots", type=int, default=8, help="of a replica (max_num_seqs in the model's documents)")
    parser.add_argument("--tokens", type=float, default=400, help="mean length of a thinker's answer")
    parser.add_argument("--speech-s", type=float, default=20, help="mean length of a talker's answer")
    parser.add_argument("--hold-s", type=float, default=0, help="measured mean time that a slot is held; 0 = derived")
    parser.add_argument("--hold-cv", type=float, default=1.0, help="its coefficient of variation")
    parser.add_argument("--start-s", type=float, default=120, help="from a replica's creation until it takes tickets")
    parser.add_argument("--gpus", type=float, default=1, help="of a replica")
    parser.add_argument("--utilization", type=float, default=0.8, help="targetUtilization, and the HPA's target")
    parser.add_argument("--max-waiting", type=int, default=1024, help="ANTIPHON_MAX_WAITING")
    parser.add_argument("--deadline-s", type=float, default=600, help="ANTIPHON_REQUEST_TIMEOUT_S")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--before", type=Path, help="figures of an earlier run, to compare with and to keep beside")
    return parser


if __name__ == "__main__":
    main()
