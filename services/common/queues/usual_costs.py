"""What answers usually cost, so that tickets are charged about what they will come to."""

from __future__ import annotations

from dataclasses import replace

from services.common.queues.tickets import QueueName, TicketSpec

# Part that each new answer has in the mean: about the last 16 count.
_NEW_PART = 1 / 16


class UsualCosts:
    """Means of what answers cost beyond what was known before, by queue.

    A ticket is charged when it is granted, and the turn's end settles the difference. Were it charged the most that its
    answer may cost, running answers would put their tenant's clock far ahead, and virtual time with it: a tenant that
    comes then would start as far behind what the others really had.
    """

    def __init__(self) -> None:
        self._means: dict[QueueName, float] = {}

    def estimate(self, queue: QueueName, spec: TicketSpec) -> TicketSpec:
        """Return the ticket with the cost to charge: what is usual, and no more than its answer may cost."""
        mean = self._means.get(queue)
        if spec.known is None or mean is None:
            return spec
        usual = spec.known + mean
        # Where the answer's own limit is lower, its length tells nothing of other answers.
        return replace(spec, cost=usual) if usual < spec.cost else replace(spec, known=None)

    def note(self, queue: QueueName, spec: TicketSpec, cost: float) -> None:
        """Note what the turn of an estimated ticket came to."""
        if spec.known is None:
            return
        beyond = max(cost - spec.known, 0.0)
        mean = self._means.get(queue, beyond)
        self._means[queue] = mean + (beyond - mean) * _NEW_PART
