"""Who works next: tickets that gateways wait with, leases that workers grant. Redis holds what both must see.

- `client.QueueClient` is a gateway's side, `keeper.SlotKeeper` a worker's.
- `queue.lua` is the queue itself: each operation is one atomic script.
- A worker's own `Slots` decide which slots are free; Redis only knows what was granted.

Where something dies, in the order of a ticket's life:

- the gateway, while it waits: its heartbeat ends, its tickets are dropped when they are next looked at;
- the worker, before it takes: nothing was taken;
- the connection, during a take: the worker asks again with the same lease ids and gets the same grants;
- the worker, after a grant: the gateway's call fails, it asks again and is first in its class;
- the connection, while the grant is on its way to the gateway: the next heartbeat brings it;
- the gateway, after the grant: the lease is not opened, so its slot is free again after the grant timeout;
- Redis, with or without its memory: workers' open leases go on; gateways put back what they still wait for.
"""

from services.common.queues.client import QueueClient
from services.common.queues.keeper import SlotKeeper
from services.common.queues.tickets import (
    Grant,
    PriorityClass,
    QueueLimits,
    QueueName,
    QueueStats,
    ServedModel,
    TicketSpec,
)

__all__ = [
    "Grant",
    "PriorityClass",
    "QueueClient",
    "QueueLimits",
    "QueueName",
    "QueueStats",
    "ServedModel",
    "SlotKeeper",
    "TicketSpec",
]
