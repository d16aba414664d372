"""Every Redis key of the queues.

Queues are spread over shards. All keys of a shard share its hash tag, so a Redis Cluster keeps them on one node and a
script may touch them all. One server is one shard: a gateway then waits for the grants of all its queues at one list.
All keys expire unless their writer renews them: an unused queue leaves nothing behind.
"""

from __future__ import annotations

from zlib import crc32

from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster

from services.common.queues.tickets import QueueName

VERSION = 4
"""Services that name this number differently do not meet: they neither read nor write each other's keys."""

CLUSTER_SHARDS = 16
"""A gateway keeps one connection for each shard in which it has a queue. A cluster can use as many nodes."""

QUEUES = f"antiphon:{VERSION}:queue-list"
"""Sorted set: "stage/model" of each queue that has workers, or had → when it is forgotten, ms since the epoch."""

REMEMBER_S = 3600.0
"""A queue and its last worker's card are remembered for so long after they were last renewed. A live worker renews
them, and so does the scaler while a ScaledObject asks it for the queue."""

SHARD_KEYS = {
    # One for each shard.
    "gateways": "gateways",  # sorted set: gateway → how long its heartbeat is good for
    # One for each name that follows.
    "gateway": "gateway:",  # set: "<ticket id> <stage/model>" of each waiting ticket of a gateway
    "grants": "grants:",  # list that a gateway waits at: GrantRecords
}

QUEUE_KEYS = {
    # One for each queue.
    "heads": "heads",  # sorted set: first ticket of each tenant that waits → its rank; the lowest goes first
    "arrivals": "arrivals",  # sorted set: id of each waiting ticket above BATCH → its arrival
    "batch_arrivals": "batch-arrivals",  # the same of tickets at or below BATCH, which are not in `arrivals`
    "beside": "beside",  # hash: when a ticket above BATCH last waited or held a slot, and when one below got one, ms
    "tenants": "tenants",  # hash: whose the last ticket with a `share_beside` was, and when it last was another's, ms
    "deadlines": "deadlines",  # sorted set: id of each waiting ticket → its deadline
    "ranks": "ranks",  # sorted set: id of each waiting ticket → the rank that it was expected to have
    "promotions": "promotions",  # sorted set: id of each ticket in a worker's queue → when any worker may take it
    "waiting": "waiting",  # hash: tenant → how many of its tickets wait
    "held": "held",  # hash: tenant, or group with a limit → slots that it holds, of all workers
    "parked": "parked",  # set: tenants that wait although they hold as many slots as they may
    "full_groups": "full-groups",  # set: groups of which tenants wait although it holds as many slots as it may
    "workers": "workers",  # sorted set: worker → how long its heartbeat is good for
    "idle": "idle",  # sorted set: worker → slots that it asked for and did not fill
    "sums": "sums",  # hash: slots of all workers, free ones and those of batches; of those that drain; how many drain
    "cards": "cards",  # hash: each ModelCard → how many workers show it
    "load": "load",  # hash: rates of arrival, refusal and grant, mean time that a slot is held
    "card": "card",  # string: the WorkerInfo that a worker showed last; outlives it
    "woken": "woken",  # string, there while a turn is on its way to a queue whose workers may all be scaled to zero
    "scaler": "scaler",  # hash: the scaler that shows this queue's wanted replicas, and until when it does
    # One for each name that follows.
    "worker_heads": "heads:",  # like `heads`, for one worker: tickets that would profit from its cache
    "tenant_queue": "tenant:",  # sorted set: a tenant's waiting tickets of one priority → their arrival
    "clocks": "clocks:",  # sorted set for each priority: tenant → its clock; "" → the queue's virtual time
    "ticket": "ticket:",  # hash: a ticket, waiting or granted and not yet forgotten
    "lease": "lease:",  # string: "<ticket id> <priority> <tenant>[ <group>]" that a lease was granted for
    "worker": "worker:",  # hash: a worker's WorkerInfo, its part of `sums` and `cards`, the number of its last ask
    "held_by": "held:",  # hash: tenant or group → slots that it holds of one worker, its part of `held`
    "parked_in": "parked:",  # set: tenants of a full group that wait
    "bell": "bell:",  # list that a worker waits at: "" for "come and take", or a lease that comes back unused
    "affinity": "affinity:",  # string: the worker that last served this conversation
}


def cost_writer_keys(namespace: str) -> tuple[str, str]:
    """Return the keys of a Kubernetes namespace: a string, the scaler that writes the deletion costs of its pods; and a
    set, "stage/model" of each queue whose stage is about to lose replicas."""
    prefix = f"antiphon:{VERSION}:{{deletion-costs/{namespace}}}"
    return f"{prefix}:writer", f"{prefix}:shrinking"


class Keyspace:
    """Key names on one kind of Redis: a single server has one shard, a cluster has CLUSTER_SHARDS."""

    def __init__(self, redis: object) -> None:
        self._shards = CLUSTER_SHARDS if isinstance(redis, AsyncRedisCluster | RedisCluster) else 1

    def shard_of(self, queue: QueueName) -> int:
        return crc32(str(queue).encode()) % self._shards

    def shard_prefix(self, shard: int) -> str:
        return f"antiphon:{VERSION}:{{{shard}}}"

    def queue_key(self, queue: QueueName, name: str, suffix: str = "") -> str:
        return f"{self.shard_prefix(self.shard_of(queue))}:{queue}:{QUEUE_KEYS[name]}{suffix}"

    def shard_key(self, shard: int, name: str, suffix: str = "") -> str:
        return f"{self.shard_prefix(shard)}:{SHARD_KEYS[name]}{suffix}"


def lua_key_tables() -> str:
    """The same names as Lua tables, for arguments.lua."""

    def table(name: str, keys: dict[str, str]) -> str:
        rows = "".join(f"  {key} = '{suffix}',\n" for key, suffix in keys.items())
        return f"local {name} = {{\n{rows}}}\n"

    return table("SHARD_KEYS", SHARD_KEYS) + table("QUEUE_KEYS", QUEUE_KEYS)
