"""Runs the operations of queue.lua."""

from __future__ import annotations

from importlib import resources
from typing import Any

from services.common.queues.keys import lua_key_table, queue_prefix
from services.common.queues.tickets import QueueName
from services.common.redis_client import RedisClient, redis_call


class QueueScript:
    """queue.lua as a call: `await script(queue, "settle", tenant, 0, -3.5)`. Raises Unavailable."""

    def __init__(self, redis: RedisClient) -> None:
        text = resources.files("services.common.queues").joinpath("queue.lua").read_text(encoding="utf-8")
        self._script = redis.register_script(lua_key_table() + text)

    async def __call__(self, queue: QueueName, operation: str, *args: str | bytes | float) -> Any:
        async with redis_call():
            return await self._script(keys=[queue_prefix(queue.stage, queue.model)], args=[operation, *args])
