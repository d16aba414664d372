"""Why speech no longer followed its text, as talkers tell gateways and gateways tell clients."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from antiphon.v1 import talker_pb2


class Derailment(StrEnum):
    STALL = "stall"
    """One first code, again and again."""
    CYCLE = "cycle"
    """The same first codes in the same order, again and again."""
    REPEAT = "repeat"
    """Nothing but a few first codes for long: a drone."""
    SILENCE = "silence"
    """Samples that nobody hears."""
    ENDLESS = "endless"
    """Far more speech than the text needs."""
    CUT = "cut"
    """The talker ended before it was fed its text."""

    @classmethod
    def of(cls, wire: talker_pb2.Derailment.ValueType) -> Self | None:
        """Return what the message says; None = nothing, or what this version does not know."""
        return next((why for why in cls if why.wire == wire), None)

    @property
    def wire(self) -> talker_pb2.Derailment.ValueType:
        return talker_pb2.Derailment.Value(f"DERAILMENT_{self.name}")
