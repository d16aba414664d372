"""The result of a run, as it is printed and stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.chaos.figures import SHOWN, failure, requests, spread, wrong
from bench.chaos.killer import Loss
from bench.chaos.pauses import pauses, untouched
from bench.chaos.victims import SERVER, Victim, stage_of
from bench.rolling.restarts import Restart
from bench.rolling.run import Run
from services.common.stages import STAGES

LONGEST_LEAVE_S = 10.0
"""From SIGTERM until a process is gone."""


def figures(run: Run) -> dict[str, object]:
    found = pauses(run.asked, run.resumes, _moves(run.restarts))
    return {
        "restarts": {
            each.name: {"gone_s": round(each.gone_s, 2), "replaced_s": round(each.ready_s, 2)} for each in run.restarts
        },
        "longest_leave_s": round(max(each.gone_s for each in run.restarts), 2),
        "requests": requests(run.asked),
        "errors": sum(bool(each.error) for each in run.asked),
        "turned_away": sum(each.turned_away for each in run.asked),
        "wrong": wrong(run.asked),
        "moves": dict(Counter(f"{resume.stage}, {resume.cause}" for resume in run.resumes)),
        "pauses_s": {
            stage: spread([pause.seconds for pause in found if pause.began and pause.loss.victim.stage == stage])
            for stage in STAGES
        },
        "longest_gaps_of_other_streams_s": spread(untouched(run.asked, run.resumes)),
        "failures": [failure(each) for each in run.asked if each.error or each.wrong][:SHOWN],
    }


def holds(run: Run) -> bool:
    """Return whether no client saw an error or a wrong answer, and every process left in time."""
    whole = not any(each.error or each.wrong or each.turned_away for each in run.asked)
    return whole and all(each.gone_s <= LONGEST_LEAVE_S for each in run.restarts)


def _moves(restarts: Sequence[Restart]) -> list[Loss]:
    return [
        Loss(Victim(stage, each.name, each.pid, SERVER, each.pid), "move", each.at_s)
        for each in restarts
        if (stage := stage_of(each.name))
    ]
