"""The end of a session that is to end after what is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.gateway.realtime.session_end import SessionEnd


class Leaving:
    """`is_busy`: whether something runs that its client waits for. `is_speaking`: whether the user speaks now. `end`
    ends the session."""

    def __init__(
        self, is_busy: Callable[[], bool], is_speaking: Callable[[], bool], end: Callable[[SessionEnd], None]
    ) -> None:
        self._is_busy = is_busy
        self._is_speaking = is_speaking
        self._end = end
        self.is_finishing = False
        """Whether its client has asked for the end: nothing more is heard or seen."""
        self.is_draining = False
        """Whether its gateway drains: what is spoken now is heard to its end and answered, and nothing new begins."""
        self._hears_on = False

    def finish(self) -> None:
        self.is_finishing = True
        self.check()

    def drain(self, last_turn_s: float) -> None:
        """`last_turn_s`: how long to wait for the end of a turn that is spoken now: noise may keep it from ending."""
        self.is_draining = True
        self._hears_on = self._is_speaking()
        if self._hears_on:
            asyncio.get_running_loop().call_later(last_turn_s, self._hear_no_more)
        self.check()

    def _hear_no_more(self) -> None:
        self._hears_on = False
        self.check()

    def turn_added(self) -> None:
        """Note that what was spoken is in the conversation. What is spoken next is not waited for."""
        self._hears_on = False

    def check(self) -> None:
        """End the session if it is to end, and nothing is under way any more."""
        if self._is_busy():
            return
        if self.is_finishing:
            self._end(SessionEnd.REQUESTED)
        elif self.is_draining and not (self._hears_on and self._is_speaking()):
            self._end(SessionEnd.DRAINED)
