"""The stream of usage records in Redis, as one reader of its group sees it. Every method raises Unavailable."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from services.common.redis_client import RedisClient, redis_call
from services.common.usage_stream import READER_GROUP, RECORD_FIELD, USAGE_STREAM

BLOCK_S = 1.0
"""How long a read waits for records. Less than what a Redis client takes for a dead server."""

FORGET_S = 3600.0
"""A reader that was not seen for so long, and holds nothing, is removed from the group."""

# One step: what is acknowledged and not deleted would stay for ever. What no reader was given is another entry with the
# same id: ids are times, and a Redis that lost its memory, or another one whose clock is behind, gives one twice.
_FINISH = """
for i = 2, #ARGV do
  if redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) == 1 then redis.call('XDEL', KEYS[1], ARGV[i]) end
end
"""
# One step: a reader that comes back must not lose what it was just given.
_FORGET = """
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local reader = {}
  for i = 1, #row, 2 do reader[row[i]] = row[i + 1] end
  if reader.pending == 0 and reader.idle >= tonumber(ARGV[2]) and (ARGV[3] == '' or reader.name == ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], reader.name)
  end
end
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """`body` is a serialized record, b"" where the entry has none; None = the entry was deleted before it was read."""

    id: bytes
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Entries that are not finished, and when the oldest was written, ms since the epoch; 0 = there is none."""

    number: int
    oldest_unix_ms: int


class UsageStream:
    """`reader` must be new with each start of the process."""

    def __init__(self, redis: RedisClient, reader: str) -> None:
        self._redis = redis
        self._reader = reader
        self._finish = redis.register_script(_FINISH)
        self._forget = redis.register_script(_FORGET)

    async def read(self, count: int) -> list[Entry]:
        """Return up to `count` entries that no reader was given. Wait for them up to BLOCK_S."""

        async def ask() -> Any:
            return await self._redis.xreadgroup(
                READER_GROUP, self._reader, {USAGE_STREAM: ">"}, count=count, block=round(BLOCK_S * 1000)
            )

        return _of_streams(await self._in_group(ask, BLOCK_S))

    async def unfinished(self, count: int) -> list[Entry]:
        """Return entries that this reader was given and did not finish, the oldest first."""

        async def ask() -> Any:
            return await self._redis.xreadgroup(READER_GROUP, self._reader, {USAGE_STREAM: "0"}, count=count)

        return _of_streams(await self._in_group(ask))

    async def take_over(self, count: int, idle_s: float) -> list[Entry]:
        """Return entries that any reader was given `idle_s` ago and did not finish. They are this reader's now."""

        async def ask() -> Any:
            return await self._redis.xautoclaim(
                USAGE_STREAM, READER_GROUP, self._reader, min_idle_time=round(idle_s * 1000), start_id="0", count=count
            )

        found = await self._in_group(ask)
        return _entries(found[1]) if found else []

    async def finish(self, entries: Sequence[Entry]) -> None:
        """Acknowledge and delete entries."""
        async with redis_call():
            await self._finish(keys=[USAGE_STREAM], args=[READER_GROUP, *(entry.id for entry in entries)])

    async def forget_readers(self) -> None:
        """Remove readers from the group that are long gone."""

        async def ask() -> Any:
            await self._forget(keys=[USAGE_STREAM], args=[READER_GROUP, round(FORGET_S * 1000), ""])

        await self._in_group(ask)

    async def leave(self) -> None:
        """Remove this reader from the group, unless it left something unfinished."""

        async def ask() -> Any:
            await self._forget(keys=[USAGE_STREAM], args=[READER_GROUP, 0, self._reader])

        await self._in_group(ask)

    async def waiting(self) -> Waiting:
        """Return what is in the stream: entries leave it as they are finished."""
        async with redis_call():
            number: Any = await self._redis.xlen(USAGE_STREAM)
            first: Any = await self._redis.xrange(USAGE_STREAM, count=1)
        return Waiting(number, int(first[0][0].partition(b"-")[0]) if first else 0)

    async def _in_group(self, ask: Callable[[], Coroutine[Any, Any, Any]], blocks_s: float = 0.0) -> Any:
        """Return what Redis answers; None where there was no group, as after it was emptied. It is made then, from the
        stream's first entry on."""
        async with redis_call(blocks_s):
            try:
                return await ask()
            except ResponseError as error:
                # In a script: "NOGROUP" or "no such key", wrapped by Redis before 7.
                if "NOGROUP" not in str(error) and "no such key" not in str(error):
                    raise
            try:
                await self._redis.xgroup_create(USAGE_STREAM, READER_GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):  # another reader was faster
                    raise
        return None


def _of_streams(found: Any) -> list[Entry]:
    """Return the entries of XREADGROUP's answer about one stream, in any form that redis-py gives it: a list of
    (stream, entries), or with `protocol=3` in the URL {stream: [entries]}."""
    if not found:
        return []
    rows = next(iter(found.values())) if isinstance(found, dict) else found[0][1]
    return _entries(rows[0] if rows and isinstance(rows[0], list) else rows)


def _entries(rows: Any) -> list[Entry]:
    # An entry without fields is one that was deleted: Redis adds none without.
    return [Entry(row[0], row[1].get(RECORD_FIELD, b"") if row[1] else None) for row in rows if row[0] is not None]
