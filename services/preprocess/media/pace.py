"""How the frames of a film stand in time.

A film of even pace is sampled by its frames' numbers, as qwen-omni-utils does with every film. One of uneven pace is
sampled as if it had a frame at each tick of an even clock: the one that is shown then.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_FPS = 240.0
# How far the headers' rate may be from that of the timestamps. Some containers' headers round or guess it.
_RATE_ERROR = 0.02


@dataclass(frozen=True, slots=True)
class Pace:
    """`frames` at `fps`; of an uneven film the ticks of its clock. `times_s`: when each frame of an uneven film is
    shown, from 0; () where the pace is even."""

    frames: int
    fps: float
    times_s: tuple[float, ...] = ()

    def frame_at(self, index: int) -> int:
        """Return the number of the film's frame that is shown at tick `index`."""
        if not self.times_s:
            return index
        return max(bisect_right(self.times_s, (index + 0.5) / self.fps) - 1, 0)


def pace_of(
    times_s: Sequence[float | None], last_s: float, header_fps: float, least_fps: float, lead_s: float = 0.0
) -> Pace:
    """Return the pace of frames that are shown at `times_s`, in any order, the last one for `last_s` (0 = not known).

    `header_fps` is what the headers say, 0 = nothing. `least_fps`: a slower clock would miss what is sampled. `lead_s`:
    how much earlier than the first frame the sound begins; that frame is shown from there on.
    """
    known = sorted(time for time in times_s if time is not None)
    span_s = known[-1] - known[0] if known else 0.0
    if len(known) < len(times_s) or not span_s > 0:
        return Pace(len(times_s), header_fps or _rate(len(times_s), last_s))
    own_fps = (len(known) - 1) / span_s
    times = np.array(known) - known[0]
    if np.abs(times * own_fps - np.arange(len(times))).max() < 0.5:
        is_told = abs(header_fps - own_fps) <= _RATE_ERROR * own_fps
        fps = header_fps if is_told else own_fps
        if not lead_s:
            return Pace(len(known), fps)
    else:
        shortest_s = float(np.diff(times).min())
        fps = min(1 / shortest_s if shortest_s > 0 else MAX_FPS, MAX_FPS)
    fps = max(fps, least_fps)
    ticks = round((lead_s + span_s + (last_s or 1 / fps)) * fps)
    return Pace(ticks, fps, tuple((times + lead_s).tolist()))


def _rate(frames: int, seconds: float) -> float:
    return frames / seconds if seconds > 0 else 0.0
