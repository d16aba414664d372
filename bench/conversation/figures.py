"""What a run's speakers saw, as figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.conversation.due import due_at
from bench.conversation.speaker import CHUNK_SAMPLES, HeardItem, HeardResponse, Speaker
from bench.conversation.timeline import Utterance
from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.realtime.turns.silero.model import SileroModel

MOST_LATE_MS = 20.0
"""Speakers that send later than this (p95) say that the machine does not keep up: the run measures that, and not the
gateway."""
_DECIDED_MS = 400.0
_PADDING = 300 * SAMPLE_RATE // 1000
"""What belongs to an item before its speech."""


@dataclass
class Figures:
    """Of all speakers of a run. Times in ms."""

    late: list[float] = field(default_factory=list[float])
    turns: int = 0
    missed: int = 0
    split: int = 0
    first_audio: list[float] = field(default_factory=list[float])
    words: list[float] = field(default_factory=list[float])
    barges: int = 0
    barges_unheard: int = 0
    # Their answer was sent before; its client has it and plays it.
    barges_after_the_last_audio: int = 0
    # Of barge-ins: from the voice's beginning, and from when the server has enough of it, to the end of the answer.
    stop_from_voice: list[float] = field(default_factory=list[float])
    stop_at_edge: list[float] = field(default_factory=list[float])
    backs: int = 0
    # They came before their answer: nothing was heard that they could interrupt.
    backs_too_early: int = 0
    false_interruptions: int = 0
    broken: list[str] = field(default_factory=list[str])

    def shown(self) -> dict[str, object]:
        decided = sum(one <= _DECIDED_MS for one in self.words)
        return {
            "turns": self.turns,
            "missed_turns": self.missed,
            "turns_heard_as_several": self.split,
            "first_audio_after_speech_ms": _spread(self.first_audio),
            "words_decided_after_ms": _spread(self.words),
            "words_decided_within_400_ms": f"{decided} of {len(self.words)}",
            "barge_ins": self.barges,
            "barge_ins_after_the_last_audio": self.barges_after_the_last_audio,
            "barge_ins_that_stopped_nothing": self.barges_unheard,
            "stopped_after_enough_speech_ms": _spread(self.stop_at_edge),
            "stopped_after_voice_began_ms": _spread(self.stop_from_voice),
            "back_channels": self.backs,
            "back_channels_before_the_answer": self.backs_too_early,
            "false_interruptions": self.false_interruptions,
            "broken_conversations": self.broken[:5],
            "client_late_ms": _spread(self.late),
            "on_time": self.is_on_time,
        }

    @property
    def is_on_time(self) -> bool:
        return bool(self.late) and float(np.percentile(self.late, 95)) <= MOST_LATE_MS


def figures_of(speakers: Iterable[Speaker], interrupt_speech_ms: int) -> Figures:
    """`interrupt_speech_ms`: how much speech the gateway wants before it interrupts an answer."""
    model, made = SileroModel(), Figures()
    for speaker in speakers:
        if speaker.error:
            made.broken.append(f"{speaker.instructions}: {speaker.error}")
            continue
        made.late += [1000 * late_s for late_s in speaker.late_s()]
        _add(made, speaker, model, interrupt_speech_ms)
    return made


def _add(made: Figures, speaker: Speaker, model: SileroModel, interrupt_speech_ms: int) -> None:
    explained: set[str] = set()
    false: set[str] = set()
    before: Sequence[HeardItem] = ()
    for utterance in speaker.timeline.utterances:
        items = _items_of(speaker, utterance)
        explained |= {item.id for item in items}
        if utterance.kind == "back":
            if _is_heard(speaker, utterance, before):
                made.backs += 1
                false |= {item.id for item in items}
            else:
                made.backs_too_early += 1
            continue
        if utterance.kind == "barge":
            _add_barge(
                made, speaker, utterance, before, due_at(model, speaker.timeline, utterance, interrupt_speech_ms)
            )
        _add_turn(made, speaker, utterance, items)
        before = items
    # What nobody said.
    made.false_interruptions += len(false) + sum(item.id not in explained for item in speaker.items)


def _items_of(speaker: Speaker, utterance: Utterance) -> Sequence[HeardItem]:
    """Return what the server heard while this was said."""
    return [
        item
        for item in speaker.items
        if item.start + _PADDING // 2 < utterance.end and (item.end or item.start + 2 * _PADDING) > utterance.start
    ]


def _add_turn(made: Figures, speaker: Speaker, utterance: Utterance, items: Sequence[HeardItem]) -> None:
    made.turns += 1
    made.split += len(items) > 1
    response = items[-1].response if items else None
    if response is None or not response.first_audio_s:
        made.missed += 1
        return
    ended_s = speaker.said_s(utterance.end)
    made.first_audio.append(1000 * (response.first_audio_s - ended_s))
    if utterance.kind == "word":
        made.words.append(1000 * (items[-1].stopped_s - ended_s))


def _add_barge(made: Figures, speaker: Speaker, barge: Utterance, before: Sequence[HeardItem], due: int | None) -> None:
    made.barges += 1
    response = before[-1].response if before else None
    if response is None or due is None:
        made.barges_unheard += 1
        return
    due_s = speaker.sent_s[(due - 1) // CHUNK_SAMPLES]
    if not _was_interrupted(response):
        is_over = 0 < response.done_s < due_s
        made.barges_after_the_last_audio += is_over
        made.barges_unheard += not is_over
        return
    stopped_s = _stopped_s(speaker, barge, response)
    made.stop_from_voice.append(1000 * (stopped_s - speaker.said_s(barge.start)))
    made.stop_at_edge.append(1000 * (stopped_s - due_s))


def _is_heard(speaker: Speaker, utterance: Utterance, before: Sequence[HeardItem]) -> bool:
    """Return whether the answer to what was said before had begun."""
    response = before[-1].response if before else None
    return response is not None and 0 < response.first_audio_s < speaker.said_s(utterance.start)


def _was_interrupted(response: HeardResponse) -> bool:
    return (response.status, response.reason) == ("cancelled", "turn_detected")


def _stopped_s(speaker: Speaker, barge: Utterance, response: HeardResponse) -> float:
    """Return when the client knew of it, or got the last of the answer's speech, whichever was later."""
    told_s = min((item.started_s for item in _items_of(speaker, barge)), default=response.done_s)
    return max(told_s, response.last_audio_s)


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    p50, p95 = (round(float(value), 1) for value in np.percentile(values, (50, 95)))
    return {"count": len(values), "p50": p50, "p95": p95, "longest": round(max(values), 1)}
