"""What decoding for a request has cost, from the first job on until its gateway was told."""

from __future__ import annotations

# Of requests that nobody releases, as their gateway died.
_MOST = 10_000


class DecodePrices:
    """Prices by request, in seconds of a fast core; see decoding/price.py. A job counts once it begins."""

    def __init__(self) -> None:
        self._untold: dict[str, float] = {}

    def add(self, request_id: str, price_s: float) -> None:
        """Add a job that begins."""
        self._untold[request_id] = self._untold.pop(request_id, 0.0) + price_s
        if len(self._untold) > _MOST:
            del self._untold[next(iter(self._untold))]

    def take(self, request_id: str) -> float:
        """Return what was added and not taken yet."""
        return self._untold.pop(request_id, 0.0)
