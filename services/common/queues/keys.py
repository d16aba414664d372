"""Every Redis key of the queues.

Keys of one queue share the hash tag {stage/model}, so a Redis Cluster keeps them on one node and a script may touch
them all. All keys expire unless their writer renews them (`queue.lua`): an unused queue leaves nothing behind.
"""

from __future__ import annotations

QUEUES = "antiphon:queues"
"""Sorted set: "stage/model" of each queue that has workers, or had → when it is forgotten, ms since the epoch."""

REMEMBER_S = 3600.0
"""A queue and its last worker's card are remembered for so long after they were last renewed. A live worker renews
them, and so does the scaler while a ScaledObject asks it for the queue."""

QUEUE_KEYS = {
    # One for each queue.
    "queue": "line",  # sorted set: arrival and ticket id → rank; any free worker takes the lowest
    "deadlines": "deadlines",  # sorted set: id of each waiting ticket → its deadline
    "promotions": "promotions",  # sorted set: id of each ticket in a worker's queue → when any worker may take it
    "gateways": "gateways",  # sorted set: gateway → how long its heartbeat is good for
    "workers": "workers",  # sorted set: worker → how long its heartbeat is good for
    "idle": "idle",  # sorted set: worker → slots that it asked for and did not fill
    "load": "load",  # hash: rates of arrival, refusal and grant, mean time that a slot is held
    "card": "card",  # string: the WorkerInfo that a worker showed last; outlives it
    "woken": "woken",  # string, there while a turn is on its way to a queue whose workers may all be scaled to zero
    "scaler": "scaler",  # hash: the scaler that shows this queue's wanted replicas, and until when it does
    # One for each name that follows.
    "worker_queue": "line:",  # like `queue`, for one worker: tickets that would profit from its cache
    "ticket": "ticket:",  # hash: a ticket, waiting or granted and not yet forgotten
    "lease": "lease:",  # string: id of the ticket that a lease was granted for
    "worker": "worker:",  # hash: a worker's WorkerInfo and its count of busy slots
    "bell": "bell:",  # list that a worker waits at: "" for "come and take", or a lease that comes back unused
    "reply": "reply:",  # list that a gateway waits at: GrantRecords
    "tenant": "tenant:",  # sorted set: id of each waiting ticket of a tenant → its priority
    "fair": "fair:",  # sorted set for each priority: tenant → its clock; "" → the queue's virtual time
    "affinity": "affinity:",  # string: the worker that last served this conversation
}


def queue_prefix(stage: str, model: str) -> str:
    return f"antiphon:{{{stage}/{model}}}"


def card_key(prefix: str) -> str:
    return f"{prefix}:{QUEUE_KEYS['card']}"


def bell_key(prefix: str, worker_id: str) -> str:
    return f"{prefix}:{QUEUE_KEYS['bell']}{worker_id}"


def reply_key(prefix: str, gateway_id: str) -> str:
    return f"{prefix}:{QUEUE_KEYS['reply']}{gateway_id}"


def lua_key_table() -> str:
    """The same names as a Lua table `key`, made from the queue's prefix in KEYS[1]."""
    rows = "".join(f"  {name} = KEYS[1] .. ':{suffix}',\n" for name, suffix in QUEUE_KEYS.items())
    return f"local key = {{\n{rows}}}\n"
