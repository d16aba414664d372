"""How long clients waited for the next part of a stream that a loss touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from bench.chaos.answer import ReceivedAnswer
from bench.chaos.killer import Loss
from bench.chaos.load import Asked
from bench.chaos.resumes import Resume
from services.common.errors import FEATURES_GONE, HIDDEN_STATES_GONE
from services.common.stages import PREPROCESS, TALKER, THINKER

# A resume for one of these causes comes from a loss in another stage than the one that resumes.
_LOST_STAGE = {FEATURES_GONE: PREPROCESS, HIDDEN_STATES_GONE: THINKER}
_CLOCK_S = 0.05


@dataclass(frozen=True)
class Pause:
    """The longest gap of a stream from a loss until the next loss or the end.

    began: something had reached the client before the loss. If not, the gap goes from the loss to the first part, and
    contains what the stage had to do anyway.

    found_s: from the loss until the gateway went on elsewhere. next_s: from then until the next part. Where the pause
    is longer than both together, it came later: the stream went on, and stood still once more.
    """

    loss: Loss
    seconds: float
    began: bool
    found_s: float
    next_s: float


def pauses(asked: Iterable[Asked], resumes: Iterable[Resume], losses: Sequence[Loss]) -> list[Pause]:
    """Return one pause for each stream and loss that touched it. Whole answers have none."""
    by_trace: dict[str, list[Resume]] = {}
    for resume in resumes:
        by_trace.setdefault(resume.trace_id, []).append(resume)
    return [
        pause
        for each in asked
        if each.answer is not None and each.question.streamed
        for pause in _of_stream(each, each.answer, by_trace.get(each.trace_id, ()), losses)
    ]


def longest_gap_s(answer: ReceivedAnswer) -> float:
    """Return the longest gap between two parts of the same kind."""
    return max((b - a for times in (answer.texts_at_s, answer.speech_at_s) for a, b in pairwise(times)), default=0.0)


def untouched(asked: Iterable[Asked], resumes: Iterable[Resume]) -> list[float]:
    """Return the longest gap of each stream that no loss touched, in seconds."""
    touched = {resume.trace_id for resume in resumes}
    return [
        longest_gap_s(each.answer)
        for each in asked
        if each.answer is not None and each.question.streamed and each.trace_id not in touched
    ]


def unexplained(resumes: Iterable[Resume], losses: Sequence[Loss]) -> list[Resume]:
    """Return the resumes that no loss explains."""
    return [resume for resume in resumes if _loss_of(resume, losses) is None]


def _of_stream(asked: Asked, answer: ReceivedAnswer, resumes: Iterable[Resume], losses: Sequence[Loss]) -> list[Pause]:
    hit: dict[Loss, Resume] = {}
    for resume in sorted(resumes, key=lambda resume: resume.at_s):
        loss = _loss_of(resume, losses)
        if loss is not None:
            hit.setdefault(loss, resume)
    ordered = sorted(hit, key=lambda loss: loss.at_s)
    return [
        _pause(loss, hit[loss].at_s, _parts(answer, hit[loss].stage), asked, after.at_s if after else asked.ended_s)
        for loss, after in zip_longest(ordered, ordered[1:])
    ]


def _parts(answer: ReceivedAnswer, stage: str) -> list[float]:
    """Return when the parts came that the stage makes."""
    parts: Mapping[str, list[float]] = {THINKER: answer.texts_at_s, TALKER: answer.speech_at_s}
    return parts.get(stage) or sorted(answer.texts_at_s + answer.speech_at_s)


def _pause(loss: Loss, resumed_s: float, parts: Sequence[float], asked: Asked, until_s: float) -> Pause:
    began = bool(parts) and parts[0] <= loss.at_s
    first_s = [] if began else [max(loss.at_s, asked.began_s)]
    times = [*first_s, *parts, asked.ended_s]
    gaps = [b - a for a, b in pairwise(times) if b >= loss.at_s and a <= until_s]
    next_s = next((at_s for at_s in parts if at_s > resumed_s), asked.ended_s)
    found_s, until_next_s = max(resumed_s - loss.at_s, 0.0), max(next_s - resumed_s, 0.0)
    return Pause(loss, max(gaps, default=0.0), began, found_s, until_next_s)


def _loss_of(resume: Resume, losses: Sequence[Loss]) -> Loss | None:
    """Return the last loss before the resume in the stage that it comes from."""
    stage = _LOST_STAGE.get(resume.cause, resume.stage)
    before = [loss for loss in losses if loss.victim.stage == stage and loss.at_s <= resume.at_s + _CLOCK_S]
    return max(before, key=lambda loss: loss.at_s, default=None)
