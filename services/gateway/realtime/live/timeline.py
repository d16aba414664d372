"""The one clock of a Live session, on which both sides' audio has its place. Pure: the time is given."""

from __future__ import annotations

from collections import deque

# Places where the user's audio and the clock part; older ones are forgotten.
_MOST_JUMPS = 64
# Audio that comes later than this has left a gap.
_GAP_MS = 1.0


class Timeline:
    """Milliseconds since the session started.

    The user's audio ends when it comes, or follows what came before, whichever is later. The answer's is where a client
    plays it that plays at once. All times are the session's, but for `audio_ms`: a place in the user's audio.
    """

    def __init__(self) -> None:
        # Until where each side has audio.
        self._heard_ms = 0.0
        self.said_ms = 0.0
        # Of what the model has said, without the silence behind it.
        self.spoken_ms = 0.0
        # How much audio the user has sent.
        self._audio_ms = 0.0
        # Where the user's audio goes on, and what place on the clock that has.
        self._jumps: deque[tuple[float, float]] = deque([(0.0, 0.0)], _MOST_JUMPS)
        self._used_ms = 0.0
        self._used_until_ms = 0.0

    @property
    def used_s(self) -> float:
        """How long one side or both had audio, seconds."""
        return self._used_ms / 1000

    def hear(self, length_ms: float, now_ms: float) -> None:
        """Add audio of the user that has come."""
        start_ms = max(self._heard_ms, now_ms - length_ms)
        if start_ms - self._heard_ms >= _GAP_MS:
            self._jumps.append((self._audio_ms, start_ms))
        else:
            start_ms = self._heard_ms
        self._audio_ms += length_ms
        self._heard_ms = start_ms + length_ms
        self._use(start_ms, self._heard_ms)

    def skip(self, length_ms: float) -> None:
        """Count audio that takes no time: silence that nobody sent. Negative: audio that was not taken in."""
        self._audio_ms += length_ms
        self._jumps.append((self._audio_ms, self._heard_ms))

    def at(self, audio_ms: float) -> int:
        """Return where a place in the user's audio is."""
        before, after_ms = self._jumps[0], self._heard_ms
        for jump in self._jumps:
            if jump[0] > audio_ms:
                after_ms = jump[1]
                break
            before = jump
        return round(min(before[1] + max(audio_ms - before[0], 0.0), after_ms))

    def say(self, length_ms: float, now_ms: float) -> tuple[int, int]:
        """Add audio of the answer that is sent. Return where it begins and ends."""
        start_ms = max(self.said_ms, now_ms)
        self.said_ms = self.spoken_ms = start_ms + length_ms
        self._use(start_ms, self.said_ms)
        return round(start_ms), round(self.said_ms)

    def be_silent(self, length_ms: float) -> tuple[int, int]:
        """Add silence behind what was said, which nobody uses. Return where it begins and ends."""
        start_ms = self.said_ms
        self.said_ms = start_ms + length_ms
        return round(start_ms), round(self.said_ms)

    def _use(self, start_ms: float, end_ms: float) -> None:
        self._used_ms += max(end_ms - max(start_ms, self._used_until_ms), 0.0)
        self._used_until_ms = max(self._used_until_ms, end_ms)
