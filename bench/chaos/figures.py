"""The result of a run, as it is printed and stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.chaos.killer import Loss
from bench.chaos.leftovers import Idle
from bench.chaos.load import Asked
from bench.chaos.pauses import Pause, pauses, unexplained, untouched
from bench.chaos.resumes import Resume
from bench.chaos.victims import Victim
from services.common.stages import STAGES

SHOWN = 20
"""Of each kind of failure, so many are told in full."""
WRONG = {"tokens": ("tokens", "text", "end", "usage"), "codes": ("codes",), "samples": ("samples",)}


@dataclass
class Run:
    """What happened. `calm` was asked before the first loss, `asked` from then on."""

    calm: Sequence[Asked] = ()
    asked: Sequence[Asked] = ()
    losses: Sequence[Loss] = ()
    resumes: Sequence[Resume] = ()
    idle: Idle = field(default_factory=Idle)
    left: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    replicas: int = 2
    seconds: float = 0.0


def figures(run: Run) -> dict[str, object]:
    found = pauses(run.asked, run.resumes, run.losses)
    return {
        "seconds": round(run.seconds, 1),
        "losses": _losses(run.losses),
        "requests": requests(run.asked),
        "broken_streams": sum(bool(each.error) for each in run.asked),
        "wrong": wrong(run.asked),
        "turned_away": sum(each.turned_away for each in run.asked),
        "slots_lost": sum(run.idle.slots_lost.values()),
        "pauses_s": {
            "kill": _pauses([pause for pause in found if pause.loss.how == "kill"], lambda victim: victim.stage),
            # A stopped engine or decoder is found by its hang limit, 10 s; a stopped server by gRPC's keepalive, 15 s.
            "stop": _pauses(
                [pause for pause in found if pause.loss.how == "stop"], lambda victim: f"{victim.stage} {victim.role}"
            ),
        },
        "longest_gaps_of_other_streams_s": {
            "before the first loss": spread(untouched(run.calm, ())),
            "among losses": spread(untouched(run.asked, run.resumes)),
        },
        "resumes": dict(Counter(f"{resume.stage}, {resume.cause}" for resume in run.resumes)),
        "resumes_without_a_loss": len(unexplained(run.resumes, run.losses)),
        "before_the_first_loss": {
            "requests": len(run.calm),
            "broken_streams": sum(bool(each.error) for each in run.calm),
            "wrong": wrong(run.calm),
        },
        "left": {
            "slots": run.idle.slots_lost,
            "held": run.idle.held,
            **{kind: list(those)[:SHOWN] for kind, those in run.left.items()},
        },
        "failures": [failure(each) for each in (*run.calm, *run.asked) if each.error or each.wrong][:SHOWN],
        "longest_pauses": [
            _told(pause) for pause in sorted(found, key=lambda pause: pause.seconds, reverse=True)[:SHOWN]
        ],
    }


def holds(run: Run) -> bool:
    """Return whether no stream broke, nothing was wrong and nothing is left.

    With a single worker a stage, new requests may be turned away while it starts. With two, none may.
    """
    asked = (*run.calm, *run.asked)
    good = not any(each.error or each.wrong or (each.turned_away and run.replicas > 1) for each in asked)
    return good and not (run.idle.slots_lost or run.idle.held or any(run.left.values()))


def _losses(losses: Iterable[Loss]) -> dict[str, dict[str, int]]:
    """Return {"thinker": {"kill server": 3, "stop engine core": 1}}."""
    return {
        stage: dict(
            sorted(Counter(f"{loss.how} {loss.victim.role}" for loss in losses if loss.victim.stage == stage).items())
        )
        for stage in STAGES
    }


def requests(asked: Sequence[Asked]) -> dict[str, object]:
    answers = [each.answer for each in asked if each.answer is not None]
    return {
        "all": len(asked),
        "by_question": dict(sorted(Counter(each.question.name for each in asked).items())),
        "tokens": sum(len(answer.token_ids) for answer in answers),
        "codes": sum(len(answer.codes) for answer in answers),
        "samples": sum(len(answer.pcm) // 2 for answer in answers),
    }


def wrong(asked: Iterable[Asked]) -> dict[str, int]:
    """Return the number of answers with wrong tokens (text, end and usage included), codes and samples."""
    return {kind: sum(any(part in each.wrong for part in parts) for each in asked) for kind, parts in WRONG.items()}


def _pauses(found: Sequence[Pause], kind: Callable[[Victim], str]) -> dict[str, object]:
    """Return the pauses by the kind of what was lost, and over all."""
    seen = [pause for pause in found if pause.began]
    kinds = sorted({kind(pause.loss.victim) for pause in seen})
    return {
        **{each: spread([p.seconds for p in seen if kind(p.loss.victim) == each]) for each in kinds},
        "all": spread([pause.seconds for pause in seen]),
        "of it until the gateway goes on": spread([pause.found_s for pause in seen]),
        "of it until the next part": spread([pause.next_s for pause in seen]),
        "to the first part": spread([pause.seconds for pause in found if not pause.began]),
    }


def spread(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {"streams": 0}
    p50, p95 = (round(float(value), 3) for value in np.percentile(seconds, (50, 95)))
    return {"streams": len(seconds), "p50": p50, "p95": p95, "longest": round(max(seconds), 3)}


def failure(asked: Asked) -> dict[str, object]:
    return {"question": asked.question.name, "error": asked.error, "wrong": list(asked.wrong), "trace": asked.trace_id}


def _told(pause: Pause) -> dict[str, object]:
    victim = pause.loss.victim
    return {
        "seconds": round(pause.seconds, 3),
        "found_s": round(pause.found_s, 3),
        "next_s": round(pause.next_s, 3),
        "loss": f"{pause.loss.how} {victim.stage} {victim.role}",
    }
