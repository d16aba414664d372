"""Whether speech still follows its text, judged frame by frame from what the talker emits.

A talker that derails rarely finds back: the probability of its end token collapses, and it hums, repeats itself or is
silent up to the longest answer. Each rule looks for one such form, with limits that ordinary speech does not reach. A
frame is suspect long before a limit is reached: whoever sends frames holds suspect ones back, and drops them if the
speech has derailed.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.derailments import Derailment

# The longest cycle that is looked for, in frames: 2 s.
LONGEST_CYCLE = 25
# A cycle comes at least so many times more before it is a derailment.
_CYCLES = 3
# Speech is suspect after a second of repetition, after two of silence, after four of few codes.
_SUSPECT_CYCLE, _SUSPECT_SILENCE, _SUSPECT_STRETCH = 12, 25, 50
# A check that begins after delivered frames looks at the last of them.
_LOOKS_BACK = 256


@dataclass(frozen=True)
class CheckLimits:
    """When speech has derailed; 0 turns a rule off.

    stall_frames: a first code, or a cycle of them, that repeats for so long; a cycle also comes four times or more.
    repeat_frames: at most `repeat_codes` different first codes for so long. silence_frames: so long below
    `silence_rms`, of full scale 1. endless: after the text's end, more than endless_frames_per_token frames for each
    token of the text, and more than endless_frames in all. cut_tokens: so many tokens not fed when the talker ends.
    """

    stall_frames: int = 50
    repeat_frames: int = 100
    repeat_codes: int = 6
    silence_frames: int = 62
    silence_rms: float = 0.00316
    endless_frames_per_token: float = 12.0
    endless_frames: int = 200
    cut_tokens: int = 16


class SpeechCheck:
    """Follows one answer. It takes some microseconds a frame, and bounded memory.

    good: the answer's frames, from the first on, that may be sent. Those after it are suspect.
    """

    def __init__(self, limits: CheckLimits, delivered: Sequence[int] = ()) -> None:
        """delivered: the first codes of frames that were sent before. Their sound is not known."""
        self._limits = limits
        self._delivered, self._unseen = list(delivered[-_LOOKS_BACK:]), max(len(delivered) - _LOOKS_BACK, 0)
        self._codes, self._rms = array("I"), array("f")
        self.frames = self.good = 0
        self._begin()

    def add(self, code: int, rms: float, *, text_tokens: int, text_ended: bool) -> Derailment | None:
        """Take the next frame. Return why the speech has derailed; None = it has not.

        code: its first code; rms: of its samples, see rms_of. text_tokens: how many tokens of text to speak are known,
        and text_ended whether these are all.
        """
        self._codes.append(code)
        self._rms.append(rms)
        return self._look(code, rms) or (self._endless(text_tokens) if text_ended else None)

    def end(self, *, text_tokens: int) -> Derailment | None:
        """Note that the talker has ended. Return why that is a derailment; None = it is not."""
        limit = self._limits.cut_tokens
        # The step that drew the end was fed one token, too.
        return Derailment.CUT if limit and text_tokens - (self.frames + 1) >= limit else None

    def go_back(self) -> None:
        """Forget the suspect frames."""
        good, kept = self.good, self.good - len(self._delivered) - self._unseen
        past = list(zip(self._codes[:kept], self._rms[:kept], strict=True))
        self._codes, self._rms = self._codes[:kept], self._rms[:kept]
        self._begin()
        for code, rms in past:
            self._look(code, rms)
        self.good = good

    def _begin(self) -> None:
        # Code n - 1 is that of n frames ago; beside it, for how many frames each code has been that of n frames before.
        self._recent = deque[int](maxlen=LONGEST_CYCLE)
        self._matches: list[int] = []
        # Each code of the present stretch of few codes → its last frame; and the stretch's first frame.
        self._last_at: dict[int, int] = {}
        self._stretch_at = self.frames = self._unseen
        self._quiet = 0
        for code in self._delivered:
            self._look(code, 1.0)
        self.good = self.frames

    def _look(self, code: int, rms: float) -> Derailment | None:
        limits = self._limits
        self.frames += 1
        cycle, repeated = self._cycle(code)
        stretch = self._stretch(code)
        self._quiet = self._quiet + 1 if rms < limits.silence_rms else 0
        is_suspect = (
            (limits.stall_frames and repeated >= min(_SUSPECT_CYCLE, limits.stall_frames))
            or (limits.repeat_frames and stretch >= min(_SUSPECT_STRETCH, limits.repeat_frames))
            or (limits.silence_frames and self._quiet >= min(_SUSPECT_SILENCE, limits.silence_frames))
        )
        if not is_suspect:
            self.good = self.frames
            return None
        if cycle:
            return Derailment.STALL if cycle == 1 else Derailment.CYCLE
        if limits.silence_frames and self._quiet >= limits.silence_frames:
            return Derailment.SILENCE
        if limits.repeat_frames and stretch >= limits.repeat_frames:
            return Derailment.REPEAT
        return None

    def _cycle(self, code: int) -> tuple[int, int]:
        """Return the length of the cycle that has repeated for too long, or 0; and for how many frames any has."""
        recent, limit, repeated = self._recent, self._limits.stall_frames, 0
        if code in recent:
            matches = [count + 1 if old == code else 0 for count, old in zip(self._matches, recent, strict=True)]
            repeated = max(matches)
        else:  # most frames
            matches = [0] * len(recent)
        if len(recent) < LONGEST_CYCLE:
            matches.append(0)
        recent.appendleft(code)
        self._matches = matches
        if limit and repeated >= limit:
            for length, count in enumerate(matches, start=1):
                if count >= max(limit, _CYCLES * length):
                    return length, repeated
        return 0, repeated

    def _stretch(self, code: int) -> int:
        """Return for how many frames there were at most `repeat_codes` codes, this frame included."""
        last_at = self._last_at
        last_at[code] = self.frames
        if len(last_at) > self._limits.repeat_codes:
            oldest = min(last_at, key=last_at.__getitem__)
            self._stretch_at = last_at.pop(oldest)
        return self.frames - self._stretch_at

    def _endless(self, text_tokens: int) -> Derailment | None:
        limits = self._limits
        if not limits.endless_frames_per_token:
            return None
        most = max(limits.endless_frames, limits.endless_frames_per_token * text_tokens)
        return Derailment.ENDLESS if self.frames > most else None


def rms_of(samples: NDArray[np.float32]) -> float:
    """Return the root mean square of samples; 1 where there are none, as nothing is known then."""
    return float(np.dot(samples, samples) / len(samples)) ** 0.5 if len(samples) else 1.0
