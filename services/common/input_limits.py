"""What media may be: preprocess' limits, which its model card publishes and the gateway shows to clients."""

from __future__ import annotations

from collections.abc import Sequence

from antiphon.v1 import common_pb2

NAMES: tuple[str, ...] = tuple(field.name for field in common_pb2.InputLimits.DESCRIPTOR.fields)


def by_name(limits: common_pb2.InputLimits) -> dict[str, float]:
    return {name: getattr(limits, name) for name in NAMES}


def least(cards: Sequence[common_pb2.ModelCard]) -> common_pb2.InputLimits | None:
    """Return the limits that every card keeps; None where no card has any."""
    given = [card.input for card in cards if card.HasField("input")]
    if not given:
        return None
    return common_pb2.InputLimits(**{name: min(getattr(limits, name) for limits in given) for name in NAMES})
