"""Which packets of a connected peer are worth work: as many as a call needs, of as many sources as it has."""

from __future__ import annotations

import time
from collections.abc import Callable

# Packets of audio, mostly 20 ms each, some clients 10 ms; and what reports on them.
_MEDIA_A_SECOND = 150.0
# Of DTLS: data channels, some 1.2 kB each.
_DATA_A_SECOND = 1000.0
_BURST_S = 2.0
# A client's track is one; it gets another number when it is exchanged.
_MAX_SOURCES = 8


class Allowance:
    """So many a second, and those of two seconds at once."""

    def __init__(self, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_second = a_second
        self._clock = clock
        self._left = a_second * _BURST_S
        self._counted_s = clock()

    @property
    def is_spent(self) -> bool:
        now_s = self._clock()
        self._left = min(self._left + (now_s - self._counted_s) * self._a_second, self._a_second * _BURST_S)
        self._counted_s = now_s
        return self._left < 1

    def take(self) -> bool:
        if self.is_spent:
            return False
        self._left -= 1
        return True


class PacketGate:
    """`is_busy`: whether data channels should wait. SCTP sends again what is dropped, and slows down."""

    def __init__(self, is_busy: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self.is_busy = is_busy
        self._media = Allowance(_MEDIA_A_SECOND, clock)
        self._data = Allowance(_DATA_A_SECOND, clock)
        self._sources: set[bytes] = set()

    def passes(self, packet: bytes) -> bool:
        """Whether to read the packet. What its first byte says is that of RFC 7983."""
        kind = packet[0] if packet else 0
        if 20 <= kind <= 63:
            return self._data.take() and not self.is_busy()
        return 128 <= kind <= 191 and len(packet) >= 12 and self._media.take() and self._is_of_a_source(packet)

    def _is_of_a_source(self, packet: bytes) -> bool:
        """Whether it has a number that is known, or one of the first: state is kept of each."""
        is_report = 192 <= packet[1] <= 223  # RFC 5761
        source = packet[4:8] if is_report else packet[8:12]
        if source not in self._sources:
            if len(self._sources) == _MAX_SOURCES:
                return False
            self._sources.add(source)
        return True
