"""What a turn costs. All sums are exact: picos are millionths of a micro, which is a millionth of the currency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.gateway.turn.amounts import Amounts

PICOS_PER_MICRO = 1_000_000
KINDS = frozenset(Amounts.__dataclass_fields__) | {"requests"}
# Tokens of the first are among those of the others. With a price of their own they cost that in place of the others'.
_PARTS = {
    "cached_tokens": ("prompt_text_tokens", "prompt_audio_tokens", "prompt_image_tokens", "prompt_video_tokens"),
    "reasoning_tokens": ("completion_text_tokens",),
}


@dataclass(frozen=True, slots=True)
class Price:
    """`model` "" = every model without a price of its own for this kind. `kind`: a field of Amounts, or "requests"."""

    id: str
    model: str
    kind: str
    micros_per_million: int
    from_unix_ms: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """The exact cost, and the ids of the prices that were used, sorted."""

    picos: int
    price_ids: Sequence[str] = ()

    @property
    def micros(self) -> int:
        """Return the cost, rounded up once."""
        return -(-self.picos // PICOS_PER_MICRO)


_FREE = Cost(0)


@dataclass(frozen=True, slots=True)
class Tariff:
    """The prices of one turn, by kind."""

    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])

    def picos(self, amounts: Amounts, *, requests: int = 0) -> int:
        """Return the exact cost."""
        return self.cost(amounts, requests=requests).picos if self.prices else 0

    def cost(self, amounts: Amounts, *, requests: int = 0) -> Cost:
        """Return the cost, in which nothing is charged twice."""
        if not self.prices:
            return _FREE
        units: dict[str, int] = {**amounts.by_name, "requests": requests}
        for part, wholes in _PARTS.items():
            left = units[part] if part in self.prices else 0
            for whole in wholes:
                taken = min(left, units[whole])
                units[whole] -= taken
                left -= taken
        used = [(price, units[kind]) for kind, price in self.prices.items() if units[kind]]
        picos = sum(price.micros_per_million * count for price, count in used)
        return Cost(picos, sorted(price.id for price, _ in used))


@dataclass(slots=True)
class PriceList:
    """All prices. `prices` may be set anew while it is used."""

    prices: Sequence[Price] = ()
    # Model → its last tariff, the prices that it was made of, and the time for which it holds, ms since the epoch.
    _last: dict[str, tuple[Tariff, Sequence[Price], int, float]] = field(
        default_factory=dict[str, tuple[Tariff, Sequence[Price], int, float]]
    )

    def tariff(self, model: str, at_unix_ms: int) -> Tariff:
        """Return the prices of a turn that begins now: of each kind the model's own, or that of every model."""
        if model in self._last:
            tariff, prices, from_unix_ms, until_unix_ms = self._last[model]
            if prices is self.prices and from_unix_ms <= at_unix_ms < until_unix_ms:
                return tariff
        found: dict[str, Price] = {}
        until_unix_ms = math.inf
        for price in self.prices:
            if price.model not in ("", model) or price.kind not in KINDS:
                continue
            if price.from_unix_ms > at_unix_ms:
                until_unix_ms = min(until_unix_ms, price.from_unix_ms)
                continue
            other = found.get(price.kind)
            if other is None or (bool(other.model), other.from_unix_ms) <= (bool(price.model), price.from_unix_ms):
                found[price.kind] = price
        tariff = Tariff(found)
        self._last[model] = tariff, self.prices, at_unix_ms, until_unix_ms
        return tariff
