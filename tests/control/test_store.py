"""The schema, its migrations, and what gateways are told of changes."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.errors import AntiphonError, Conflict
from services.common.key_scopes import Scope
from services.control.store.database import Database
from services.control.store.migrate import (
    LOCK,
    SchemaError,
    _config,  # pyright: ignore[reportPrivateUsage]
    check_schema,
    migrate,
)
from services.control.store.models import Base, LedgerState, UsageRow, UsageSum
from services.control.tenancy.api_keys import ApiKeys
from services.control.tenancy.audit import Actor
from services.control.tenancy.feed import Change, FeedKey, TenantFeed
from services.control.tenancy.organisations import Organisations, Projects
from services.control.usage.ledger import UsageLedger, sums_of
from services.control.usage.records import row_of
from tests.control.conftest import NewDatabase, opened, settings_of
from tests.control.usage_records import NOON, record, sums
from tests.fixtures.postgresql import PostgreSqlServer
from tests.fixtures.wait import wait_until

ACTOR = Actor("adm_test")


async def test_several_processes_may_migrate_at_once(database_url: str) -> None:
    async with opened(database_url) as first, opened(database_url) as second, opened(database_url) as third:
        with pytest.raises(SchemaError, match="the schema is empty"):
            await check_schema(first)
        await asyncio.gather(migrate(first), migrate(second), migrate(third))
        await check_schema(second)


@pytest.fixture
def postgresql_url(postgresql: PostgreSqlServer) -> str:
    return postgresql.new_database()


async def test_a_migration_waits_until_another_is_over(postgresql_url: str) -> None:
    async with opened(postgresql_url) as first, opened(postgresql_url) as second:

        async def has_asked() -> bool:
            async with first.reading() as connection:
                asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_try_advisory_xact_lock%'"
                return bool(await connection.scalar(text(asked)))

        async with first.writing() as holder:
            await holder.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            migration = asyncio.create_task(migrate(second))
            await wait_until(has_asked)
            with pytest.raises(SchemaError, match="the schema is empty"):
                await check_schema(first)
            assert not migration.done()
        await migration
        await check_schema(first)


async def test_the_migrations_make_the_tables_of_the_models(database_url: str) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, Base.metadata)

    async with opened(database_url) as database:
        await migrate(database)
        async with database.reading() as connection:
            assert await connection.run_sync(differences) == []


async def test_replicas_of_the_version_before_go_on_writing_records(database_url: str) -> None:
    """From before to after the migration that lets records say how speech derailed."""
    added = {"derailment", "derailed_requests", "spoken_again"}

    def migrate_to_0003(connection: Connection) -> None:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")

    async def write_as_before(connection: AsyncConnection, seq: int) -> None:
        row = row_of(record(f"turn-{seq}", NOON + timedelta(days=seq))) | {"seq": seq}
        for table, values in ((UsageRow, row), (UsageSum, sums_of([row])[0])):
            known = {name: value for name, value in values.items() if name not in added}
            await connection.execute(insert(table).values(**known))
        await connection.execute(update(LedgerState).values(last_seq=seq))

    async with opened(database_url) as database:
        async with database.writing() as connection:
            await connection.run_sync(migrate_to_0003)
            await write_as_before(connection, 1)
        await migrate(database)
        async with database.writing() as connection:
            await write_as_before(connection, 2)
        derailed = record("new", NOON + timedelta(days=2), derailment="silence", spoken_again=2)
        await UsageLedger(database).add([derailed])
        async with database.read() as session:
            rows = (await session.scalars(select(UsageRow).order_by(UsageRow.seq))).all()
        assert [(row.turn_id, row.derailment, row.spoken_again) for row in rows] == [
            ("turn-1", "", 0), ("turn-2", "", 0), ("new", "silence", 2),
        ]  # fmt: skip
        summed = await sums(database)
        assert (summed["requests"], summed["derailed_requests"], summed["spoken_again"]) == (3, 1, 2)


async def test_a_newer_schema_is_refused(database_url: str) -> None:
    async with opened(database_url) as database:
        await migrate(database)
        async with database.writing() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(SchemaError, match="a newer version made"):
            await migrate(database)
        with pytest.raises(SchemaError, match=r"run python -m services\.control migrate"):
            await check_schema(database)


async def test_a_write_that_fails_leaves_nothing(database_url: str) -> None:
    async with opened(database_url) as database:
        await migrate(database)
        organisations, projects = Organisations(database), Projects(database)
        organisation, _ = await organisations.create(ACTOR, "acme")
        await projects.create(ACTOR, organisation.id, "prod")
        with pytest.raises(AntiphonError):
            await projects.create(ACTOR, organisation.id, "test", tenant="acme.prod")
        assert [row.name for row in (await projects.list(organisation.id, None, 10))[0]] == ["prod"]


async def test_concurrent_creation_makes_one_row(database_url: str) -> None:
    async with opened(database_url) as first, opened(database_url) as second:
        await migrate(first)
        made = await asyncio.gather(
            *(Organisations(database).create(ACTOR, "acme") for database in (first, second) * 4)
        )
        assert len({row.id for row, _ in made}) == 1
        assert sum(is_new for _, is_new in made) == 1


class Watcher:
    """What a gateway would know."""

    def __init__(self) -> None:
        self.epoch = ""
        self.version = 0
        self.keys: dict[str, FeedKey] = {}

    async def catch_up(self, database: Database) -> Change:
        """Connect, read what is missing, and leave."""
        watch = TenantFeed(database, look_s=5).watch(self.epoch, self.version, heartbeat_s=5)
        change = await anext(watch)
        await watch.aclose()
        if change.snapshot:
            self.keys = {}
        for id in change.removed:
            self.keys.pop(id, None)
        self.keys |= {key.id: key for key in change.put}
        self.epoch, self.version = change.epoch, change.version
        return change


class Model:
    """The simple truth about keys, beside the database."""

    def __init__(self) -> None:
        self.project_of: dict[str, str] = {}
        self.live: set[str] = set()
        self.expiry: dict[str, datetime | None] = {}


ACTS = st.lists(
    st.tuples(st.sampled_from(["key", "rotate", "revoke", "project", "archive", "look"]), st.integers(0, 5)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS)
def test_a_watcher_that_comes_and_goes_knows_the_live_keys(new_database: NewDatabase, acts: list[tuple[str, int]]):
    asyncio.run(_follow(_database(new_database), acts))


_urls: dict[NewDatabase, str] = {}


def _database(new_database: NewDatabase) -> str:
    """Return one database for all examples of a test: each makes an organisation of its own."""
    return _urls.setdefault(new_database, new_database())


async def _follow(url: str, acts: list[tuple[str, int]]) -> None:
    async with Database(settings_of(url).database) as database:
        await migrate(database)
        organisations, projects, keys = Organisations(database), Projects(database), ApiKeys(database)
        name = f"o{datetime.now(UTC).timestamp():.6f}".replace(".", "-")
        organisation, _ = await organisations.create(ACTOR, name)
        project_ids = [(await projects.create(ACTOR, organisation.id, "p"))[0].id]
        model, watcher = Model(), Watcher()
        archived: set[str] = set()
        for number, (act, which) in enumerate(acts):
            known = sorted(model.project_of)
            key_id = known[which % len(known)] if known else ""
            project_id = project_ids[which % len(project_ids)]
            try:
                if act == "project":
                    project_ids.append((await projects.create(ACTOR, organisation.id, f"p{number}"))[0].id)
                elif act == "archive":
                    await projects.archive(ACTOR, project_id)
                    archived.add(project_id)
                    model.live -= {id for id, owner in model.project_of.items() if owner == project_id}
                elif act == "key":
                    made, _ = await keys.create(ACTOR, project_id, f"k{number}", [Scope.CHAT], None)
                    assert project_id not in archived
                    model.project_of[made.id], model.expiry[made.id] = project_id, None
                    model.live.add(made.id)
                elif act == "revoke" and known:
                    await keys.revoke(ACTOR, key_id)
                    model.live.discard(key_id)
                elif act == "rotate" and known:
                    made, _, old = await keys.rotate(ACTOR, key_id, 60, None)
                    model.project_of[made.id], model.expiry[made.id] = model.project_of[key_id], None
                    model.expiry[key_id] = old.expires_at
                    model.live.add(made.id)
                elif act == "look":
                    await watcher.catch_up(database)
            except Conflict:
                pass  # the state of the key or project does not allow it
        await watcher.catch_up(database)
        mine = {id: key for id, key in watcher.keys.items() if key.tenant.startswith(f"{name}.")}
        assert set(mine) == model.live
        assert {id: key.expires_at for id, key in mine.items()} == {id: model.expiry[id] for id in model.live}
        late = Watcher()
        assert (await late.catch_up(database)).snapshot
        assert late.keys == watcher.keys


async def test_a_watcher_of_another_database_gets_a_snapshot(database_url: str) -> None:
    async with opened(database_url) as database:
        await migrate(database)
        organisation, _ = await Organisations(database).create(ACTOR, "acme")
        project, _ = await Projects(database).create(ACTOR, organisation.id, "prod")
        made, _ = await ApiKeys(database).create(ACTOR, project.id, "first", [Scope.CHAT], None)
        watcher = Watcher()
        await watcher.catch_up(database)
        for epoch, version in (("another", watcher.version), (watcher.epoch, watcher.version + 1)):
            stale = Watcher()
            stale.epoch, stale.version = epoch, version
            stale.keys = {"key_gone": FeedKey("key_gone", "00" * 32, "gone", ["chat"], None)}
            assert (await stale.catch_up(database)).snapshot
            assert set(stale.keys) == {made.id}


async def test_a_key_is_valid_until_it_expires(database_url: str) -> None:
    now = [datetime(2030, 1, 1, tzinfo=UTC)]
    async with opened(database_url) as database:
        await migrate(database)
        organisation, _ = await Organisations(database).create(ACTOR, "acme")
        project, _ = await Projects(database).create(ACTOR, organisation.id, "prod")
        keys = ApiKeys(database, lambda: now[0])
        made, secret = await keys.create(ACTOR, project.id, "first", [Scope.CHAT], now[0] + timedelta(days=1))
        found = await keys.valid(secret)
        assert found is not None
        assert (found.id, found.expires_at) == (made.id, made.expires_at)
        now[0] += timedelta(days=1)
        assert await keys.valid(secret) is None


async def test_rows_can_be_exported(database_url: str) -> None:
    """Details of the audit log are JSON on both databases."""
    async with opened(database_url) as database:
        await migrate(database)
        await Organisations(database).create(ACTOR, "acme")
        async with database.reading() as connection:
            (row,) = (await connection.execute(text("SELECT CAST(detail AS VARCHAR(99)) FROM audit_log"))).all()
    assert json.loads(row[0]) == {"name": "acme"}
