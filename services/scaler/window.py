"""What a policy remembers of the past."""

from __future__ import annotations

import math
from collections import deque


class PeakWindow:
    """The highest number of the last `length_s` seconds. Adding costs O(1) on average, however long that is."""

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        # (when, number); numbers fall strictly: one that a higher one follows can't be the peak any more.
        self._kept: deque[tuple[float, int]] = deque()

    def add(self, at_s: float, number: int) -> int:
        """The peak, this number included. `at_s` never goes back."""
        while self._kept and self._kept[-1][1] <= number:
            self._kept.pop()
        self._kept.append((at_s, number))
        while self._kept[0][0] < at_s - self._length_s:
            self._kept.popleft()
        return self._kept[0][1]


class FadingMean:
    """A mean over time in which what is `over_s` seconds old counts a third (1/e); 0 = the last number alone.

    It starts at `start`; None = at the first number.
    """

    def __init__(self, over_s: float, start: float | None = None) -> None:
        self._over_s = over_s
        self._mean = start
        self._at_s = -math.inf

    def add(self, at_s: float, number: float) -> float:
        """The mean, with `number` held since the call before. `at_s` never goes back."""
        passed_s = at_s - self._at_s if self._at_s > -math.inf else 0.0
        self._at_s = at_s
        if self._mean is None or self._over_s == 0:
            self._mean = number
        else:
            self._mean += (number - self._mean) * -math.expm1(-passed_s / self._over_s)
        return self._mean


class StartTime:
    """How long replicas take to start: from the moment one is asked for until a worker more is there."""

    def __init__(self, assumed_s: float) -> None:
        self.mean_s = assumed_s
        self._measured = False
        self._asked = 0
        # (when, how many workers that will make), in order.
        self._starting: deque[tuple[float, int]] = deque()

    def note(self, at_s: float, asked: int, workers: int) -> None:
        """`asked` replicas are wanted from now on, and `workers` are there. `at_s` never goes back."""
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
    """How long tickets have waited too long without a worker more."""

    def __init__(self) -> None:
        self._workers = 0
        self._since_s = math.inf

    def note(self, at_s: float, workers: int, late: bool) -> float:
        """Seconds, as of now. `at_s` never goes back."""
        if not late:
            self._since_s = math.inf
        elif workers > self._workers or self._since_s == math.inf:
            self._since_s = at_s
        self._workers = workers
        return max(0.0, at_s - self._since_s)
