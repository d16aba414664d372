"""A policy's memory: peaks, means and start times."""

from __future__ import annotations

import math
from collections import deque


class PeakWindow:
    """The highest number of the last `length_s` seconds. `add` takes O(1) on average, whatever the length."""

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        # (when, number), with strictly falling numbers: a number that a higher one follows is never the peak again.
        self._candidates: deque[tuple[float, int]] = deque()

    def add(self, at_s: float, number: int) -> int:
        """Add a number and return the peak. `at_s` must not decrease."""
        while self._candidates and self._candidates[-1][1] <= number:
            self._candidates.pop()
        self._candidates.append((at_s, number))
        while self._candidates[0][0] < at_s - self._length_s:
            self._candidates.popleft()
        return self._candidates[0][1]


class FadingMean:
    """An exponential moving mean: a number that is `over_s` seconds old has weight 1/e. 0 = the last number alone.

    It starts at `start`; None = at the first number.
    """

    def __init__(self, over_s: float, start: float | None = None) -> None:
        self._over_s = over_s
        self._mean = start
        self._at_s = -math.inf

    def add(self, at_s: float, number: float) -> float:
        """Return the mean, with `number` as the value since the last call. `at_s` must not decrease."""
        passed_s = at_s - self._at_s if self._at_s > -math.inf else 0.0
        self._at_s = at_s
        if self._mean is None or self._over_s == 0:
            self._mean = number
        else:
            self._mean += (number - self._mean) * -math.expm1(-passed_s / self._over_s)
        return self._mean


class StartTime:
    """Measures how long replicas take to start: from the request for one until one more worker is there."""

    def __init__(self, assumed_s: float) -> None:
        self.mean_s = assumed_s
        self._measured = False
        self._asked = 0
        # (when asked, number of workers after that start), in order.
        self._starting: deque[tuple[float, int]] = deque()

    def note(self, at_s: float, asked: int, workers: int) -> None:
        """Note that `asked` replicas are wanted from now on, and that `workers` are there. `at_s` must not decrease."""
        while self._starting and self._starting[-1][1] > asked:
            self._starting.pop()
        while self._starting and workers >= self._starting[0][1]:
            asked_s, _ = self._starting.popleft()
            self._add(at_s - asked_s)
        if asked > max(self._asked, workers):
            self._starting.append((at_s, asked))
        self._asked = asked

    def _add(self, start_s: float) -> None:
        self.mean_s += (start_s - self.mean_s) * (0.3 if self._measured else 1.0)
        self._measured = True


class Stuck:
    """Measures for how long tickets have waited too long without a new worker."""

    def __init__(self) -> None:
        self._workers = 0
        self._since_s = math.inf

    def note(self, at_s: float, workers: int, late: bool) -> float:
        """Return the seconds until now. `at_s` must not decrease."""
        if not late:
            self._since_s = math.inf
        elif workers > self._workers or self._since_s == math.inf:
            self._since_s = at_s
        self._workers = workers
        return max(0.0, at_s - self._since_s)
