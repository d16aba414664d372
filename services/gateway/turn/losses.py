"""Counts what a turn's stages lost, and says when a turn goes on no more."""

from __future__ import annotations

from dataclasses import dataclass

# Losses that follow each other while the answer gets no longer: after so many the turn fails.
MAX_IDLE_LOSSES = 4
# Engines that failed while they worked on a request without getting on with it: it is what ends them, as a worker lets
# no other suspect into its engine beside it.
MAX_FAILED_ENGINES = 2
# The same with progress: others may have ended those, but no request gets to end engine after engine, a token each.
MAX_FAILED_ENGINES_IN_ALL = 6


@dataclass(slots=True)
class EngineFailures:
    """The engines of one stage that failed while they worked on a turn."""

    # One after another, while the stage's part of the answer got no longer.
    in_a_row: int = 0
    in_all: int = 0

    def failed(self) -> None:
        self.in_a_row += 1
        self.in_all += 1

    def got_on(self) -> None:
        self.in_a_row = 0

    @property
    def are_fatal(self) -> bool:
        return self.in_a_row >= MAX_FAILED_ENGINES or self.in_all >= MAX_FAILED_ENGINES_IN_ALL


@dataclass(slots=True)
class Losses:
    """The losses of one run."""

    engines: EngineFailures
    # Without progress, one after another.
    idle: int = 0

    def got_on(self) -> None:
        self.idle = 0
        self.engines.got_on()

    def lost(self, *, progressed: bool, moved: bool, engine_failed: bool) -> None:
        if progressed:
            self.got_on()
        elif not moved:
            self.idle += 1
        if engine_failed:
            self.engines.failed()

    @property
    def are_too_many(self) -> bool:
        return self.idle >= MAX_IDLE_LOSSES
