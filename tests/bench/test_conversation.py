"""What speakers say follows from the seed alone, and figures tell what they saw."""

from __future__ import annotations

import numpy as np
import pytest

from bench.conversation.due import due_at
from bench.conversation.figures import Figures, figures_of
from bench.conversation.speaker import CHUNK_MS, CHUNK_SAMPLES, HeardItem, HeardResponse, Speaker
from bench.conversation.targets import missed_targets
from bench.conversation.timeline import Timeline, timeline
from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.realtime.turns.endpointer import interrupting_ms
from services.gateway.realtime.turns.silero.model import SileroModel

INTERRUPT_MS = 300
PADDING = 300 * SAMPLE_RATE // 1000


@pytest.fixture(scope="module")
def spoken() -> Timeline:
    """A timeline with an interruption and sounds of a listener."""
    for number in range(20):
        made = timeline(number, 0, 25.0, 0.005, 250)
        if {"barge", "back"} <= {one.kind for one in made.utterances}:
            return made
    raise AssertionError("no timeline has both")


def test_a_timeline_follows_from_its_seed(spoken: Timeline) -> None:
    again = [timeline(number, 0, 25.0, 0.005, 250) for number in range(20)]
    assert spoken in again
    assert timeline(0, 1, 25.0, 0.005, 250) not in again
    ends = [one.end for one in spoken.utterances]
    assert ends == sorted(ends)
    assert all(
        before.end < after.start for before, after in zip(spoken.utterances, spoken.utterances[1:], strict=False)
    )
    samples = np.frombuffer(spoken.pcm, "<i2").astype(np.float64)
    for one in spoken.utterances:
        quiet = samples[one.end : one.end + 2400]
        assert np.abs(samples[one.start : one.end]).mean() > 2 * np.abs(quiet).mean()


def test_an_interruption_is_due_once_there_is_enough_speech(spoken: Timeline) -> None:
    barge = next(one for one in spoken.utterances if one.kind == "barge")
    due = due_at(SileroModel(), spoken, barge, INTERRUPT_MS)
    assert due is not None
    assert due - barge.start >= interrupting_ms(INTERRUPT_MS) * SAMPLE_RATE // 1000 - SAMPLE_RATE // 10
    for back in spoken.utterances:
        if back.kind == "back":
            assert due_at(SileroModel(), spoken, back, INTERRUPT_MS) is None


def heard(spoken: Timeline, *, stops_after_s: float = 0.02, hears_backs: bool = False, misses: bool = False) -> Figures:
    """Return the figures of a speaker who is punctual, before a gateway that answers half a second after each turn."""
    speaker = Speaker(1, spoken, {})
    speaker.sent_s = [(n + 1) * CHUNK_MS / 1000 for n in range(len(spoken.pcm) // 2 // CHUNK_SAMPLES)]
    answer: HeardResponse | None = None
    for number, one in enumerate(spoken.utterances):
        if one.kind == "back" and not hears_backs:
            continue
        start_s, end_s = one.start / SAMPLE_RATE, one.end / SAMPLE_RATE
        started_s = start_s + 0.1
        if one.kind == "barge" and answer is not None:
            due = due_at(SileroModel(), spoken, one, INTERRUPT_MS)
            assert due is not None
            started_s = due / SAMPLE_RATE + stops_after_s
            answer.last_audio_s = answer.done_s = started_s
            answer.status, answer.reason = "cancelled", "turn_detected"
        item = HeardItem(f"item {number}", one.start - PADDING, started_s, one.end + PADDING, end_s + 0.3)
        answer = item.response = HeardResponse(end_s + 0.4, end_s + 0.5, end_s + 3.5, end_s + 3.5, "completed")
        if not misses:
            speaker.items.append(item)
    return figures_of([speaker], INTERRUPT_MS)


def test_a_gateway_that_does_all_as_it_must_misses_no_target(spoken: Timeline) -> None:
    figures = heard(spoken)
    assert missed_targets(figures, "semantic_vad") == []
    assert (figures.missed, figures.split, figures.false_interruptions) == (0, 0, 0)
    assert max(figures.first_audio) == pytest.approx(500)
    assert max(figures.stop_at_edge) == pytest.approx(20, abs=CHUNK_MS)
    assert figures.is_on_time


def test_what_is_not_as_it_must_be_is_told(spoken: Timeline) -> None:
    late = missed_targets(heard(spoken, stops_after_s=0.3), "semantic_vad")
    assert len(late) == 1
    assert "stop the answer" in late[0]
    backs = sum(one.kind == "back" for one in spoken.utterances)
    disturbed = heard(spoken, hears_backs=True)
    assert disturbed.false_interruptions == backs
    assert any("false interruptions" in target for target in missed_targets(disturbed, "semantic_vad"))
    missed = heard(spoken, misses=True)
    assert missed.missed == missed.turns > 0
    assert any("turns were missed" in target for target in missed_targets(missed, "semantic_vad"))
