"""The turns of one request, one for each choice, read as one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.gateway.turn.events import TurnEvent
from services.gateway.turn.turn import Turn

Taken = list[tuple[int, Sequence[TurnEvent]]]


class ChoiceEvents:
    """Close it at the end."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = dict(enumerate(turns))
        # The events where there is one turn: it is read without a task.
        self._only = turns[0].events if len(turns) == 1 else None
        self._taking: dict[int, asyncio.Task[Sequence[TurnEvent] | None]] = {}

    def nudge(self) -> None:
        """Wake the reader, if it waits."""
        for turn in self._turns.values():
            turn.events.nudge()

    async def take(self) -> Taken | None:
        """Wait for events of any turn. Return all that there are, each turn's with its index; none where a `nudge` came
        first; None at the end of all.

        Raise the AntiphonError of the first turn that failed.
        """
        if self._only is not None:
            events = await self._only.take()
            return None if events is None else [(0, events)]
        while self._turns:
            for index, turn in self._turns.items():
                if index not in self._taking:
                    self._taking[index] = asyncio.create_task(turn.events.take(), name=f"choice {index}")
            done, _ = await asyncio.wait(self._taking.values(), return_when=asyncio.FIRST_COMPLETED)
            taken: Taken = []
            for index in [index for index, task in self._taking.items() if task in done]:
                events = self._taking.pop(index).result()
                if events is None:
                    del self._turns[index]
                else:
                    taken.append((index, events))
            if taken:
                return taken
        return None

    async def close(self) -> None:
        if self._taking:
            for task in self._taking.values():
                task.cancel()
            await asyncio.gather(*self._taking.values(), return_exceptions=True)


def are_billed(turns: Sequence[Turn]) -> bool:
    """Whether tokens were generated: a client should then not retry by itself."""
    return any(turn.billed for turn in turns)
