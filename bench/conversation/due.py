"""When a server must know that a speaker interrupts: by the same detector, run over the same audio."""

from __future__ import annotations

from bench.conversation.timeline import Timeline, Utterance
from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.realtime.turns.endpointer import (
    HOP_BYTES,
    HOP_SAMPLES,
    Endpointer,
    SpeechStarted,
    interrupting_ms,
)
from services.gateway.realtime.turns.options import TurnDetection
from services.gateway.realtime.turns.silero.model import SileroModel, SpeechDetector

_BEFORE_HOPS = 3 * SAMPLE_RATE // HOP_SAMPLES
"""So much is heard before: then the detector's state is that of a server that has heard everything."""


def due_at(model: SileroModel, timeline: Timeline, barge: Utterance, interrupt_speech_ms: int) -> int | None:
    """Return the sample behind the hop that completes an interruption; None = it is none for the detector."""
    first = max(barge.start // HOP_SAMPLES - _BEFORE_HOPS, 0)
    detector, endpointer = SpeechDetector(), Endpointer(TurnDetection())
    for hop in range(first, len(timeline.pcm) // HOP_BYTES):
        (probability,) = detector.hear(model, timeline.pcm[hop * HOP_BYTES : (hop + 1) * HOP_BYTES])
        if (hop + 1) * HOP_SAMPLES <= barge.start:
            continue
        if hop * HOP_SAMPLES >= barge.end:
            return None
        if isinstance(endpointer.feed(probability, interrupting_ms(interrupt_speech_ms)), SpeechStarted):
            return (hop + 1) * HOP_SAMPLES
    return None
