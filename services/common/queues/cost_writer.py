"""Which of several scalers writes the deletion costs of a namespace's pods, and which queues it is to hurry for."""

from __future__ import annotations

from typing import Any

from services.common.queues.keys import cost_writer_keys
from services.common.queues.tickets import QueueName
from services.common.redis_client import RedisClient, redis_call

_ANNOUNCED_S = 60.0

_HOLD = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return false end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local announced = redis.call('SMEMBERS', KEYS[2])
redis.call('DEL', KEYS[2])
return announced
"""
_ANNOUNCE = "redis.call('SADD', KEYS[2], ARGV[1]) redis.call('PEXPIRE', KEYS[2], ARGV[2])"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class CostWriterLease:
    """The lease of one Kubernetes namespace, for the scaler `scaler_id`. Every method raises Unavailable."""

    def __init__(self, redis: RedisClient, namespace: str, scaler_id: str) -> None:
        self._keys = list(cost_writer_keys(namespace))
        self._scaler_id = scaler_id
        self._hold = redis.register_script(_HOLD)
        self._announce = redis.register_script(_ANNOUNCE)
        self._release = redis.register_script(_RELEASE)

    async def hold(self, ttl_s: float) -> list[QueueName] | None:
        """Acquire or renew the lease for `ttl_s`. Return the queues that were announced; None if another holds it."""
        async with redis_call():
            announced: Any = await self._hold(keys=self._keys, args=[self._scaler_id, round(ttl_s * 1000)])
        return None if announced is None else [QueueName.parse(name.decode()) for name in announced]

    async def announce(self, queue: QueueName) -> None:
        """Tell the holder that the queue's stage is about to lose replicas."""
        async with redis_call():
            await self._announce(keys=self._keys, args=[str(queue), round(_ANNOUNCED_S * 1000)])

    async def release(self) -> None:
        """Give the lease up. Another scaler's stays."""
        async with redis_call():
            await self._release(keys=self._keys, args=[self._scaler_id])
