"""The progress of a turn that has not begun."""

from __future__ import annotations

from services.gateway.turn.amounts import Amounts


class NotBegun:
    attempts = 0
    derailment = None
    spoken_again = 0

    def amounts(self) -> Amounts:
        return Amounts()
