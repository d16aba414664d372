"""The simulator of bench/scale_sim.py: its results equal hand calculations, and the policy beats the others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.scale_sim import changes, main, summary
from bench.scaling.controllers import Controller, CpuHpa, Fixed, Policy
from bench.scaling.pool import Decayed
from bench.scaling.simulate import Figures, simulate
from bench.scaling.traces import SHAPES, Trace, draw
from services.scaler.policy import Terms

ROOT = Path(__file__).parents[2]
SLOTS, REPLICAS, HOLD_S = 8, 4, 8.2
BY_NAME = {shape.name: shape for shape in SHAPES}


def hand_made(arrivals_s: list[float], hold_s: float, length_s: float) -> Trace:
    holds = np.full(len(arrivals_s), hold_s)
    return Trace("hand made", "", length_s, np.array(arrivals_s), holds, 1.0, 1.0)


def run(trace: Trace, controller: Controller, *, initial: int = 1, slots: int = SLOTS, start_s: float = 60) -> Figures:
    return simulate(
        trace,
        controller,
        initial=initial,
        slots=slots,
        start_s=start_s,
        gpus=2,
        max_waiting=1024,
        deadline_s=600,
    )


def test_tickets_wait_in_the_order_of_arrival() -> None:
    # One replica with one slot: the second ticket waits 9 s, the third 18 s, the fourth not at all.
    figures = run(hand_made([0.0, 1.0, 2.0, 100.0], 10.0, 200.0), Fixed("one", 1), slots=1)
    assert (figures.requests, figures.refused) == (4, 0)
    assert figures.wait_max_s == pytest.approx(18.0)
    assert figures.wait_p50_s == pytest.approx(4.5)
    assert figures.gpu_hours == pytest.approx(2 * 200 / 3600)


def test_from_zero_a_ticket_waits_for_the_start() -> None:
    policy = Policy(Terms(SLOTS, 4, 0, scale_down_delay_s=300))
    figures = run(hand_made([100.5], 10.0, 2000.0), policy, initial=0)
    assert figures.wait_max_s == pytest.approx(60.5)
    # Started at 101 s, ready at 161 s, free at 171 s, removed within a delay, a step and a poll.
    assert 371 / 3600 <= figures.replica_hours <= 420 / 3600


def test_a_removed_replica_finishes_its_calls() -> None:
    policy = Policy(Terms(1, 4, 1, scale_down_delay_s=10))
    # Both are busy with long calls. The second is removed, and counts until its call ends.
    figures = run(hand_made([0.0, 0.1], 500.0, 1000.0), policy, initial=2, slots=1)
    assert (figures.wait_max_s, figures.refused) == (0.0, 0)
    assert figures.replica_hours >= (1000 + 500) / 3600


def test_figures_depend_on_the_seed_alone() -> None:
    def once(seed: int) -> Figures:
        trace = draw(BY_NAME["spike"], peak_slots=20, hold_s=HOLD_S, hold_cv=1.0, seed=seed)
        return run(trace, Policy(Terms(SLOTS, 8)))

    assert once(1) == once(1) != once(2)


def test_a_decayed_sum_equals_the_queues() -> None:
    rate = Decayed(30.0)
    for n in range(3000):
        rate.add(n / 10, 1)
    assert rate.rate_per_s(300.0) == pytest.approx(10, rel=0.02)
    assert rate.value(330.0) == pytest.approx(rate.value(300.0) / np.e)


def test_the_command_prints_and_writes_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "figures.json"
    small = ["--stage", "talker", "--replicas", "1", "--fleet", "2", "--slots", "2", "--json", str(written)]
    monkeypatch.setattr(sys, "argv", ["scale_sim", *small])
    main()
    document = json.loads(written.read_text())
    assert document["arguments"]["hold_s"] == pytest.approx(0.66 * 20)
    assert len(document["figures"]) == 6 * 6
    assert summary(document["figures"]) in capsys.readouterr().out


def test_the_docs_show_the_written_figures() -> None:
    figures = json.loads((ROOT / "bench/results/scale_sim.json").read_text())["figures"]
    assert summary(figures) in (ROOT / "docs/autoscaling.md").read_text()


def test_the_docs_show_the_policys_changes() -> None:
    document = json.loads((ROOT / "bench/results/scale_sim.json").read_text())
    assert changes(document["before"], document["figures"]) in (ROOT / "docs/autoscaling.md").read_text()


def test_a_square_wave_neither_overshoots_nor_flaps() -> None:
    trace = draw(BY_NAME["square wave"], peak_slots=16 * SLOTS * 0.8, hold_s=HOLD_S, hold_cv=1.0, seed=1)
    figures = run(trace, Policy(Terms(SLOTS, 32, 1)), start_s=120)
    assert figures.most_replicas <= 16 * 1.4  # 29 if starting replicas are not counted
    assert figures.scalings <= 92  # and 183
    assert figures.wait_p99_s <= 145


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_policy_beats_the_hpa_on_cpu(shape: object) -> None:
    """It refuses no more, waits no longer, and takes no more GPU hours per answer, within 2 % of noise."""
    name = getattr(shape, "name", "")
    trace = draw(BY_NAME[name], peak_slots=REPLICAS * SLOTS * 0.8, hold_s=HOLD_S, hold_cv=1.0, seed=7)
    initial = REPLICAS if name == "steady" else 1
    ours = run(trace, Policy(Terms(SLOTS, 2 * REPLICAS, 1)), initial=initial)
    hpa = run(trace, CpuHpa(2 * REPLICAS), initial=initial)
    assert ours.refused <= hpa.refused
    assert ours.wait_p99_s <= max(hpa.wait_p99_s, 5.0)
    assert ours.gpu_hours_of_1000_answers <= 1.02 * hpa.gpu_hours_of_1000_answers
