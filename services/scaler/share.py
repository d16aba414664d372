"""Decides which of several scalers shows `antiphon_scaler_wanted_replicas` of a queue: an HPA adds up all of them."""

from __future__ import annotations

import time
from typing import Protocol

from services.common.queues.tickets import Lead, QueueName

LEASE_LOOKS, SHORTEST_LEASE_S = 3, 3.0
"""After so many failed looks at a queue, a scaler stops showing its wanted replicas, and another one may start."""


class LeaseStore(Protocol):
    async def lead(self, queue: QueueName, scaler_id: str, ttl_s: float) -> Lead: ...


class Share(Protocol):
    """Whether a watch shows the wanted replicas."""

    async def leads(self, queues: LeaseStore, queue: QueueName) -> bool:
        """Return whether this scaler may show them; called with each look. Raise Unavailable."""
        ...

    def has_ended(self) -> bool:
        """Return whether, after failed looks, the scaler must stop showing its last number."""
        ...


class Always:
    """For watches that KEDA asks for. KEDA reads one scaler's answer and adds nothing up."""

    async def leads(self, queues: LeaseStore, queue: QueueName) -> bool:
        return True

    def has_ended(self) -> bool:
        return False


class Leased:
    """For watches that an HPA reads through Prometheus: only the scaler with the queue's lease shows its number.

    A scaler that takes the lease over from another shows nothing for `takeover_s`: Prometheus may still have the
    other's last number.
    """

    def __init__(self, scaler_id: str, look_s: float, takeover_s: float) -> None:
        self._scaler_id = scaler_id
        self._lease_s = max(SHORTEST_LEASE_S, LEASE_LOOKS * look_s)
        self._takeover_s = takeover_s
        # Monotonic seconds.
        self._from_s = 0.0
        self._until_s = 0.0

    async def leads(self, queues: LeaseStore, queue: QueueName) -> bool:
        asked_s = time.monotonic()
        lead = await queues.lead(queue, self._scaler_id, self._lease_s)
        if lead is Lead.ANOTHER:
            self._until_s = 0.0
            return False
        if lead is Lead.TAKEN_OVER:
            self._from_s = asked_s + self._takeover_s
        self._until_s = asked_s + self._lease_s
        return asked_s >= self._from_s

    def has_ended(self) -> bool:
        return time.monotonic() >= self._until_s
