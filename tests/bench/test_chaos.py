"""Real losses under load: no stream breaks, nothing is wrong, nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos.figures import figures, holds
from bench.chaos.questions import QUESTIONS
from bench.chaos.run import Options, run
from services.local import supervisor

KILLS = 1
"""More follow until a stream was hit. What a loss of each stage costs, tests/e2e shows."""


async def test_clients_see_no_more_than_pauses_while_workers_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "START_NICES", ())  # as tests.fixtures.eager_restarts has it
    said: list[str] = []
    questions = [question for question in QUESTIONS if question.case.name in {"text", "seeded speech", "sound"}]
    options = Options(
        kills=KILLS,
        workers=2,
        clients=3,
        rest_s=0.5,
        between_s=1.0,
        calm_s=1.0,
        stops=0.0,
        seed=2,
        questions=questions,
        aimed=True,
        resumes=1,
        # A worker that ended too late would be killed, and leave its files.
        settings=("drain_s=60",),
        log_dir=tmp_path,
    )
    result = await run(options, said.append)
    told = figures(result)
    failed = {name: told[name] for name in ("broken_streams", "wrong", "slots_lost", "left", "failures")}
    assert holds(result), (failed, said)
    assert len(result.losses) >= KILLS
    assert any(each.began_s > result.losses[0].at_s for each in result.asked)
    assert result.resumes, (said, told)
