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
