"""The usage script with a clock that tests set."""

from __future__ import annotations

from redis.asyncio import Redis

from services.common.redis_functions import FunctionLibrary
from services.common.usage_stream import USAGE_STREAM
from services.gateway.usage.script import UsageScript, usage_body

_TIME = "redis.call('TIME')"
_SECONDS, _MICROSECONDS = f"{{{USAGE_STREAM}}}:test-s", f"{{{USAGE_STREAM}}}:test-us"
START_MS = 2_524_604_400_000
"""2049-12-31 23:00 UTC: an hour before a day, a month and a year end, and later than the server's own clock."""


class ClockedScript(UsageScript):
    """The script, whose time stands until `set_time`."""

    def __init__(self, redis: Redis) -> None:
        body = usage_body()
        assert body.count(_TIME) == 1
        stopped = body.replace(_TIME, f"redis.call('MGET', '{_SECONDS}', '{_MICROSECONDS}')")
        super().__init__(redis, FunctionLibrary("usage_test", stopped))
        self._store = redis
        self.now_ms = START_MS

    async def set_time(self, now_ms: int) -> None:
        self.now_ms = now_ms
        await self._store.mset({_SECONDS: now_ms // 1000, _MICROSECONDS: now_ms % 1000 * 1000})
