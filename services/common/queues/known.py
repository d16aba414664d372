"""The list of all queues. It belongs to no single queue, so a Redis Cluster may keep it on another node."""

from __future__ import annotations

import time
from typing import Any

from services.common.queues.keys import QUEUES, REMEMBER_S
from services.common.queues.tickets import QueueName
from services.common.redis_client import RedisClient, redis_call

_KEEP = "redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2]) redis.call('PEXPIRE', KEYS[1], ARGV[3])"


class KnownQueues:
    """Reads the list, and keeps queues in it. Every method raises Unavailable."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        # One script: a process that dies between two commands would leave the key without a TTL.
        self._keep = redis.register_script(_KEEP)

    async def keep(self, queue: QueueName) -> None:
        """Keep the queue in the list for another REMEMBER_S."""
        args = [(time.time() + REMEMBER_S) * 1000, str(queue), round(REMEMBER_S * 1000)]
        async with redis_call():
            await self._keep(keys=[QUEUES], args=args)

    async def all(self) -> list[QueueName]:
        """Return the queues that have a worker or are remembered."""
        async with redis_call():
            names: Any = await self._redis.zrangebyscore(QUEUES, time.time() * 1000, "+inf")
        return sorted((QueueName.parse(name.decode()) for name in names), key=str)

    async def reach(self) -> None:
        """Check that Redis answers."""
        async with redis_call():
            await self._redis.zcard(QUEUES)
