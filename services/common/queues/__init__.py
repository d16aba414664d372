"""Decides who works next: gateways wait with tickets, workers grant leases. Redis holds the state that both need.

- `client.QueueClient` is a gateway's side, `keeper.SlotKeeper` a worker's.
- `lua/` is the queue itself: each operation is one atomic script, with a typed method in `script.QueueScript`.
- A worker's own `Slots` decide which slots are free; Redis only knows the grants.
- README.md draws the keys, and says who writes them, when they go and what each operation costs.

What happens when something fails, in the order of a ticket's life:

- The gateway dies while it waits: its heartbeat ends, and the calls that follow drop its tickets, a few each.
- The worker dies before it takes a ticket: the ticket stays in the queue.
- The connection breaks during a take: the worker asks again with the same lease ids and gets the same grants;
  leases of these ids that Redis does not know as granted are never offered again, since it may have forgotten them.
- The worker dies after a grant: the gateway's call fails. The gateway asks again and is first in its class.
- The connection breaks before the gateway has its grant: the next heartbeat brings the grant.
- The gateway dies after the grant: nobody opens the lease, and its slot is free again after the grant timeout.
- Redis restarts, with or without its data: open leases go on, and gateways put their waiting tickets back.
"""

from services.common.queues.client import QueueClient
from services.common.queues.keeper import SlotKeeper
from services.common.queues.tickets import (
    Grant,
    Group,
    PriorityClass,
    QueueLimits,
    QueueName,
    QueueStats,
    ServedModel,
    TenantTerms,
    TicketSpec,
)

__all__ = [
    "Grant",
    "Group",
    "PriorityClass",
    "QueueClient",
    "QueueLimits",
    "QueueName",
    "QueueStats",
    "ServedModel",
    "SlotKeeper",
    "TenantTerms",
    "TicketSpec",
]
