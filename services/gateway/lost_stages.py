"""Stages whose last worker was lost a moment ago, and that another one is expected in."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from services.common.queues.tickets import QueueLimits
from services.gateway.turn.model import Model


@dataclass(slots=True)
class _Seen:
    """A model as it was last shown whole, and until when each of its stages is expected, monotonic seconds."""

    model: Model
    until_s: dict[str, float] = field(default_factory=dict[str, float])


class LostStages:
    """Expects a stage's next worker for as long as its queue keeps tickets that wait for one.

    A request that comes while the only worker restarts waits like one that came before. Without this it would be
    refused, as the queues no longer show the stage.
    """

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._seen: dict[str, _Seen] = {}

    def add_to(self, shown: Mapping[str, Model], starts_s: Mapping[str, Mapping[str, float]]) -> dict[str, Model]:
        """Return the models with the stages that are expected, and the models of which nothing else is left.

        starts_s: how long the last worker's start took, by model and stage.
        """
        now_s = time.monotonic()
        for name, model in shown.items():
            seen = self._seen.setdefault(name, _Seen(model))
            for stage in model.stages:
                seen.until_s[stage] = now_s + self._limits.patience_s(starts_s[name].get(stage, 0.0))
        found: dict[str, Model] = {}
        for name, seen in list(self._seen.items()):
            model = shown.get(name)
            stages, asleep = (model.stages, model.asleep) if model else (frozenset[str](), frozenset[str]())
            lost = seen.until_s.keys() - stages - asleep
            expected = frozenset(stage for stage in lost if now_s < seen.until_s[stage])
            if expected:  # the card of a model without its thinkers is not whole
                found[name] = replace(seen.model, stages=stages, asleep=asleep, expected=expected)
            elif model is None:
                del self._seen[name]
            else:
                seen.model = found[name] = model
        return found
