"""Measures the underruns of a client that plays speech as it receives it."""

from __future__ import annotations

import time

from services.gateway import metrics
from services.gateway.turn.events import Speech, TurnEvent

_USUAL_SAMPLE_RATE = 24_000


class PlaybackClock:
    """Simulates a client that plays from the first packet on.

    A packet that arrives after the last sample was played is an underrun. Playback restarts with it.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._plays_until_s: float | None = None

    def ahead_s(self, now_s: float) -> float:
        """Return how many seconds of what was delivered are not played yet."""
        return 0.0 if self._plays_until_s is None else max(self._plays_until_s - now_s, 0.0)

    def deliver(self, samples: int, now_s: float) -> float:
        """Add a packet that is sent at `now_s`. Return the seconds of silence before it."""
        gap_s = 0.0
        if self._plays_until_s is not None and now_s > self._plays_until_s:
            gap_s = now_s - self._plays_until_s
        start_s = now_s if self._plays_until_s is None or gap_s > 0 else self._plays_until_s
        self._plays_until_s = start_s + samples / self._sample_rate
        return gap_s


class SpeechMeter:
    """Counts the underruns of one stream. `note` each event as it is sent."""

    def __init__(self, sample_rate: int) -> None:
        self._clock = PlaybackClock(sample_rate or _USUAL_SAMPLE_RATE)

    def note(self, event: TurnEvent, *, was_held: bool = False) -> None:
        """`was_held`: the event was kept back on purpose, so that silence before it is no underrun."""
        if isinstance(event, Speech) and event.pcm:
            silent_s = self._clock.deliver(len(event.pcm) // 2, time.monotonic())
            if silent_s > 0 and not was_held:
                metrics.UNDERRUNS.inc()
                metrics.UNDERRUN_SECONDS.inc(silent_s)
