"""What a turn's client was sent. That is what its record counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.turn.events import Speech, Text, TurnDone, TurnEvent


@dataclass(slots=True)
class Sent:
    """Grows as the entrance sends events. `all_counts`: all that was made was sent, or counts as if it was."""

    text_tokens: int = 0
    # Of speech.
    codes: int = 0
    all_counts: bool = False

    def add(self, events: Sequence[TurnEvent]) -> None:
        for event in events:
            match event:
                case Text():
                    self.text_tokens += len(event.token_ids)
                case Speech():
                    self.codes += len(event.codes)
                case TurnDone():
                    self.all_counts = True
                case _:
                    pass
