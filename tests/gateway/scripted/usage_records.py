"""The usage records in a test's Redis."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from antiphon.v1 import usage_pb2
from services.common.usage_stream import RECORD_FIELD, USAGE_STREAM
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until


async def forget_usage(store: RedisServer) -> None:
    """Drop all records, accounts and counts. Gateways that run don't take it for a loss, and write nothing again."""
    memory = f"{{{USAGE_STREAM}}}:memory".encode()
    async with Redis.from_url(store.url, socket_timeout=None) as redis:
        keys = [key async for key in redis.scan_iter(f"*{USAGE_STREAM}*") if key != memory]
        if keys:
            await redis.delete(*keys)


async def usage_records(store: RedisServer) -> list[usage_pb2.UsageRecord]:
    """Return all, in the order in which they were written."""
    async with Redis.from_url(store.url, socket_timeout=None) as redis:
        entries: Any = await redis.xrange(USAGE_STREAM)
        return [usage_pb2.UsageRecord.FromString(entry[RECORD_FIELD]) for _, entry in entries]


async def the_record(store: RedisServer) -> usage_pb2.UsageRecord:
    """Wait for a record. Return it: it must be the only one, and no account may be open."""

    async def there() -> bool:
        return len(await usage_records(store)) > 0 and not await open_accounts(store)

    await wait_until(there)
    records = await usage_records(store)
    assert len(records) == 1
    return records[0]


async def open_accounts(store: RedisServer) -> int:
    async with Redis.from_url(store.url, socket_timeout=None) as redis:
        return len([key async for key in redis.scan_iter(f"{{{USAGE_STREAM}}}:turn:*")])


async def records_so_far(store: RedisServer) -> list[usage_pb2.UsageRecord]:
    """Return the records of the turns that are open."""
    async with Redis.from_url(store.url, socket_timeout=None) as redis:
        keys = [key async for key in redis.scan_iter(f"{{{USAGE_STREAM}}}:turn:*")]
        records: list[Any] = [await redis.hget(key, "record") for key in keys]
        return [usage_pb2.UsageRecord.FromString(record or b"") for record in records]


async def count_of(store: RedisServer, subject: str, metric: str) -> int:
    """Return what a subject has used in this month."""
    async with Redis.from_url(store.url, socket_timeout=None) as redis:
        keys = [key async for key in redis.scan_iter(f"{{{USAGE_STREAM}}}:quota:{subject}:" + "[0-9]" * 6)]
        assert len(keys) <= 1
        value: Any = await redis.hget(keys[0], metric) if keys else 0  # none yet, or Redis has lost it
        return int(value or 0)
