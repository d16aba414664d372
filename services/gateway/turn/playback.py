"""Measures the underruns of a client that plays speech as it receives it."""

from __future__ import annotations

import time

from services.gateway import metrics
from services.gateway.turn.events import Speech, TurnEvent

_USUAL_SAMPLE_RATE = 24_000


class PlaybackClock:
    """Simulates a client that plays from the first packet on.

    A packet that arrives after the last sample was played is an underrun. Playback restarts with it. All times are of
    one monotonic clock, in seconds.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._plays_until_s: float | None = None
        # From when until when it stands still. That is in no other time of this clock yet.
        self._stands = (0.0, 0.0)

    def ahead_s(self, now_s: float) -> float:
        """Return how many seconds of what was delivered are not played yet."""
        if self._plays_until_s is None:
            return 0.0
        return max(self._plays_until_s + self._stood_s(now_s) - now_s, 0.0)

    def stand_still(self, now_s: float, until_s: float) -> None:
        """Have the client play nothing from now until `until_s`; a time that has passed = it goes on now."""
        if self._plays_until_s is not None:
            self._plays_until_s += self._stood_s(now_s)
        self._stands = now_s, until_s

    def _stood_s(self, now_s: float) -> float:
        from_s, until_s = self._stands
        return max(min(now_s, until_s) - from_s, 0.0)

    def deliver(self, samples: int, now_s: float) -> float:
        """Add a packet that is sent at `now_s`. Return the seconds of silence before it."""
        self.stand_still(now_s, self._stands[1])
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
