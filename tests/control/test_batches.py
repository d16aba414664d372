"""Rows of files and batches: limits, who holds what, and that a line gets one result, on both kinds of database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from services.common.errors import (
    AntiphonError,
    BadInput,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    RateLimited,
    TooLarge,
    Unavailable,
)
from services.common.key_scopes import ALL_SCOPES
from services.control.batches.batches import Batches
from services.control.batches.files import REMOVE_TIME, UPLOAD_TIME, USER_DATA, VISION, Files
from services.control.batches.keys import key_in_force
from services.control.batches.limits import BatchLimits
from services.control.batches.results import Result, Results
from services.control.batches.work import ReturnedLine, Work
from services.control.store.batch_models import BatchRow, FileRow
from services.control.store.database import Database
from services.control.store.migrate import migrate
from services.control.tenancy.api_keys import ApiKeys
from services.control.tenancy.audit import Actor
from services.control.tenancy.organisations import Organisations, Projects
from tests.control.conftest import opened

LIMITS = BatchLimits(files=3, file_bytes=1000, media_files=2, media_bytes=500, batch_lines=100, batches=2, lease_s=30)
HOUR_S = 3600


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Rows:
    database: Database
    clock: Clock
    files: Files
    batches: Batches
    work: Work
    results: Results

    async def file(self, tenant: str = "acme", size: int = 100) -> FileRow:
        made, _ = await self.files.begin(tenant, "in.jsonl", "batch")
        return await self.files.complete(tenant, made.id, size)

    async def batch(self, tenant: str = "acme", window_s: int = HOUR_S) -> BatchRow:
        file = await self.file(tenant, 10)
        return await self.batches.create(tenant, "", "/v1/chat/completions", file.id, window_s, {}, 0)

    async def begun(self, lines: int, tenant: str = "acme", runner: str = "validator") -> BatchRow:
        """Return a batch in progress with so many lines."""
        batch = await self.batch(tenant)
        await self.work.take(runner, 0, 10)
        await self.results.add_lines(runner, batch.id, 1, [(number, 1) for number in range(lines)])
        await self.results.end_validation(runner, batch.id, [], lines, "")
        return batch

    async def lines(self, runner: str, most: int = 10) -> list[int]:
        return [each.line.number for each in (await self.work.take(runner, most, 0)).lines]

    async def store(self, runner: str, batch: BatchRow, *numbers: int, is_error: bool = False) -> int:
        results = [Result(number, 0, 1, is_error) for number in numbers]
        return await self.results.store(runner, batch.id, f"results/{runner}", results)

    async def status(self, batch: BatchRow) -> str:
        return (await self.batches.get(batch.tenant, batch.id)).status


@pytest.fixture
async def rows(database_url: str) -> AsyncIterator[Rows]:
    async with opened(database_url) as database:
        await migrate(database)
        clock = Clock()
        files = Files(database, LIMITS, clock)
        work = Work(database, files, LIMITS.lease_s, clock)
        yield Rows(database, clock, files, Batches(database, LIMITS, clock), work, Results(database, clock))


async def test_files_are_their_tenants_and_within_its_limits(rows: Rows) -> None:
    first = await rows.file(size=600)
    assert (await rows.files.get("acme", first.id)).bytes == 600
    with pytest.raises(NotFound):
        await rows.files.get("other", first.id)
    with pytest.raises(NotFound):
        await rows.files.delete("other", first.id)
    second, left = await rows.files.begin("acme", "in.jsonl", "batch")
    assert left == 400
    with pytest.raises(TooLarge):
        await rows.files.complete("acme", second.id, 401)
    await rows.file(size=10)
    with pytest.raises(Forbidden):  # those that are being uploaded count
        await rows.files.begin("acme", "in.jsonl", "batch")
    assert (await rows.files.begin("other", "in.jsonl", "batch"))[1] == 1000
    await rows.files.delete("acme", first.id)
    with pytest.raises(NotFound):
        await rows.files.get("acme", first.id)
    assert (await rows.work.take("runner", 0, 0)).removed_file_ids == [first.id]
    rows.clock.go(UPLOAD_TIME.total_seconds() + 1)
    removed = set((await rows.work.take("runner", 0, 0)).removed_file_ids)
    assert {first.id, second.id} < removed  # an upload that was broken off
    await rows.files.removed(list(removed))
    assert not (await rows.work.take("runner", 0, 0)).removed_file_ids


async def test_media_have_limits_of_their_own(rows: Rows) -> None:
    for _ in range(LIMITS.files):
        await rows.file(size=1)
    first, left = await rows.files.begin("acme", "a.png", USER_DATA)
    assert left == 500
    await rows.files.complete("acme", first.id, 400, HOUR_S)
    second, left = await rows.files.begin("acme", "b.png", USER_DATA)
    assert left == 100
    with pytest.raises(TooLarge):
        await rows.files.complete("acme", second.id, 101)
    with pytest.raises(Forbidden):
        await rows.files.begin("acme", "c.png", USER_DATA)
    await rows.files.delete("acme", first.id)
    third, left = await rows.files.begin("acme", "c.png", USER_DATA)
    assert left == 500
    await rows.files.complete("acme", third.id, 1, HOUR_S)
    with pytest.raises(BadInput):
        await rows.batches.create("acme", "", "/v1/chat/completions", third.id, HOUR_S, {}, 0)


async def test_a_purpose_may_be_known_at_the_end(rows: Rows) -> None:
    """The file then counts among those of its purpose alone."""
    for _ in range(2):
        file, _ = await rows.files.begin("acme", "a.png", "batch")
        assert (await rows.files.complete("acme", file.id, 250, purpose=VISION)).purpose == VISION
    assert (await rows.files.begin("acme", "in.jsonl", "batch"))[1] == 1000
    late, _ = await rows.files.begin("acme", "a.png", "batch")
    with pytest.raises(Forbidden):
        await rows.files.complete("acme", late.id, 1, purpose=USER_DATA)
    await rows.files.complete("acme", late.id, 1)


async def test_a_file_with_a_given_id_begins_once(rows: Rows) -> None:
    """Whatever became of it, and whoever asks, at once or later."""
    asked = [rows.files.begin(tenant, "a.png", USER_DATA, "file-1") for tenant in ("acme", "other")]
    begun = await asyncio.gather(*asked, return_exceptions=True)
    (row,) = [each[0] for each in begun if not isinstance(each, BaseException)]
    (refused,) = [each for each in begun if isinstance(each, BaseException)]
    assert isinstance(refused, Conflict)
    assert row.id == "file-1"
    await rows.files.complete(row.tenant, row.id, 1)
    with pytest.raises(Conflict):
        await rows.files.begin(row.tenant, "a.png", USER_DATA, "file-1")


async def test_an_id_is_given_again_once_its_file_is_over(rows: Rows) -> None:
    async def begin(tenant: str = "acme") -> str:
        return (await rows.files.begin(tenant, "a.png", USER_DATA, "file-1"))[0].id

    for is_ready in (False, True):
        assert await begin() == "file-1"
        if is_ready:
            await rows.files.complete("acme", "file-1", 1)
        await rows.files.delete("acme", "file-1")
        with pytest.raises(Conflict):
            await begin("other")
    assert await begin() == "file-1"
    await rows.files.complete("acme", "file-1", 1, HOUR_S)
    rows.clock.go(HOUR_S)
    assert await begin() == "file-1"
    rows.clock.go(UPLOAD_TIME.total_seconds() + 1)  # it was broken off
    assert await begin() == "file-1"


async def test_one_runner_removes_a_file_and_none_what_comes_after_it(rows: Rows) -> None:
    begin = lambda: rows.files.begin("acme", "a.png", USER_DATA, "file-1")  # noqa: E731
    taken = lambda runner: rows.work.take(runner, 0, 0)  # noqa: E731
    await begin()
    await rows.files.delete("acme", "file-1")
    both = await asyncio.gather(taken("one"), taken("two"))
    assert sorted(list(each.removed_file_ids) for each in both) == [[], ["file-1"]]
    with pytest.raises(Unavailable):  # its bytes would be removed
        await begin()
    with pytest.raises(NotFound):
        await rows.files.delete("acme", "file-1")
    rows.clock.go(REMOVE_TIME.total_seconds())  # that runner was lost
    assert (await taken("two")).removed_file_ids == ["file-1"]
    await rows.files.removed(["file-1"])
    await begin()
    await rows.files.removed(["file-1"])  # the first one, late
    await rows.files.complete("acme", "file-1", 1)


async def test_files_come_in_pages(rows: Rows) -> None:
    made = [(await rows.file(size=1)).id for _ in range(3)]
    page, more = await rows.files.list("acme", "", 2, oldest_first=True, purpose="")
    assert ([file.id for file in page], more) == (made[:2], True)
    page, more = await rows.files.list("acme", made[1], 2, oldest_first=True, purpose="batch")
    assert ([file.id for file in page], more) == (made[2:], False)
    page, _ = await rows.files.list("acme", made[1], 2, oldest_first=False, purpose="")
    assert [file.id for file in page] == made[:1]
    assert not (await rows.files.list("acme", "", 2, oldest_first=True, purpose="batch_output"))[0]


async def test_a_file_expires_but_not_under_its_batch(rows: Rows) -> None:
    made, _ = await rows.files.begin("acme", "in.jsonl", "batch")
    file = await rows.files.complete("acme", made.id, 10, HOUR_S)
    batch = await rows.batches.create("acme", "", "/v1/chat/completions", file.id, 2 * HOUR_S, {}, 0)
    with pytest.raises(Conflict):
        await rows.files.delete("acme", file.id)
    rows.clock.go(HOUR_S)
    with pytest.raises(NotFound):
        await rows.files.get("acme", file.id)
    assert not (await rows.work.take("runner", 0, 0)).removed_file_ids
    await rows.batches.cancel("acme", batch.id)
    [job] = (await rows.work.take("runner", 0, 1)).jobs
    assert job.files is not None
    await rows.results.end("runner", batch.id, job.files[0].id, job.files[1].id, 0, 0)
    assert file.id in (await rows.work.take("runner", 0, 0)).removed_file_ids


async def test_a_tenant_has_so_many_batches_at_a_time(rows: Rows) -> None:
    first = await rows.batch()
    await rows.batch()
    with pytest.raises(RateLimited):
        await rows.batch()
    await rows.batch("other")
    with pytest.raises(NotFound):
        await rows.batches.get("other", first.id)
    with pytest.raises(NotFound):
        await rows.batches.cancel("other", first.id)


async def test_a_line_is_one_runners_until_that_is_silent(rows: Rows) -> None:
    batch = await rows.begun(3)
    assert await rows.lines("one", 2) == [1, 2]
    assert await rows.lines("two") == [3]
    rows.clock.go(20)
    assert not await rows.work.keep("one", {batch.id: {1, 2}}, ())
    rows.clock.go(20)  # the other was silent for 40 s
    assert await rows.lines("one") == [3]
    assert await rows.store("two", batch, 3) == 0
    assert await rows.store("one", batch, 3) == 1
    assert await rows.store("one", batch, 3) == 0  # each once
    rows.clock.go(40)
    assert await rows.lines("two") == [1, 2]
    assert await rows.store("one", batch, 1, 2) == 0
    assert await rows.store("two", batch, 1) == 1
    assert await rows.store("two", batch, 2, is_error=True) == 1
    done = await rows.batches.get("acme", batch.id)
    assert (done.status, done.lines_completed, done.lines_failed) == ("finalizing", 2, 1)


async def test_many_runners_take_each_line_once(rows: Rows) -> None:
    await rows.begun(40)
    taken = await asyncio.gather(*(rows.lines(f"runner-{index}", 5) for index in range(12)))
    while more := await rows.lines("last", 10):
        taken.append(more)
    assert sorted(number for each in taken for number in each) == list(range(1, 41))


async def test_lines_come_from_all_batches_in_turn(rows: Rows) -> None:
    first, second = await rows.begun(8), await rows.begun(8, "other")
    for _ in range(4):
        rows.clock.go(1)
        taken = (await rows.work.take("one", 2, 0)).lines
        assert {each.batch.id for each in taken} == {first.id, second.id}


async def test_what_an_answer_that_was_lost_gave_is_free_again(rows: Rows) -> None:
    batch = await rows.begun(2)
    await rows.lines("one")
    await rows.work.keep("one", {batch.id: {2}}, ())
    assert await rows.lines("two") == [1]
    validated = await rows.batch("other")
    await rows.work.take("one", 0, 1)
    await rows.work.keep("one", {}, ())
    assert [job.batch.id for job in (await rows.work.take("two", 0, 1)).jobs] == [validated.id]


async def test_a_line_that_was_given_back_waits(rows: Rows) -> None:
    batch = await rows.begun(1)
    await rows.lines("one")
    await rows.work.give_back("two", [ReturnedLine(batch.id, 1, 0, has_failed=True)])  # it is not this runner's
    assert await rows.lines("two") == []
    await rows.work.give_back("one", [ReturnedLine(batch.id, 1, 10, has_failed=True)])
    assert await rows.lines("two") == []
    rows.clock.go(10)
    [taken] = (await rows.work.take("two", 1, 0)).lines
    assert taken.line.failures == 1


async def test_a_job_is_one_runners_until_that_is_silent(rows: Rows) -> None:
    batch = await rows.batch()
    await rows.work.take("one", 0, 1)
    await rows.results.add_lines("one", batch.id, 1, [(0, 1), (1, 1)])
    assert not (await rows.work.take("two", 0, 1)).jobs
    rows.clock.go(40)
    assert (await rows.work.take("two", 0, 1)).jobs
    with pytest.raises(Gone):
        await rows.results.add_lines("one", batch.id, 3, [(2, 1)])
    with pytest.raises(Gone):
        await rows.results.end_validation("one", batch.id, [], 3, "")
    await rows.results.add_lines("two", batch.id, 1, [(0, 1)])  # what the other left is gone
    await rows.results.end_validation("two", batch.id, [], 1, "tiny")
    assert await rows.lines("two") == [1]
    await rows.store("two", batch, 1)
    [first] = (await rows.work.take("one", 0, 1)).jobs
    rows.clock.go(40)
    [second] = (await rows.work.take("two", 0, 1)).jobs
    assert first.files
    assert second.files
    assert first.files[0].id != second.files[0].id
    with pytest.raises(Gone):
        await rows.results.end("one", batch.id, first.files[0].id, first.files[1].id, 5, 0)
    await rows.results.end("two", batch.id, second.files[0].id, second.files[1].id, 5, 0)
    done = await rows.batches.get("acme", batch.id)
    assert (done.status, done.output_file_id, done.error_file_id) == ("completed", second.files[0].id, "")
    with pytest.raises(NotFound):
        await rows.files.get("acme", first.files[0].id)
    with pytest.raises(Conflict):
        await rows.batches.cancel("acme", batch.id)
    assert [job.batch.id for job in (await rows.work.take("one", 0, 1)).jobs] == [batch.id]  # its results go
    await rows.results.removed("one", batch.id)
    assert not (await rows.work.take("one", 0, 1)).jobs


async def test_a_cancelled_batch_ends_once_no_line_is_worked_on(rows: Rows) -> None:
    batch = await rows.begun(3)
    assert await rows.lines("one", 2) == [1, 2]
    assert (await rows.batches.cancel("acme", batch.id)).status == "cancelling"
    assert (await rows.batches.cancel("acme", batch.id)).status == "cancelling"
    assert await rows.work.keep("one", {batch.id: {1, 2}}, ()) == [batch.id]
    assert await rows.lines("two") == []
    assert await rows.store("one", batch, 1) == 1
    assert not (await rows.work.take("two", 0, 1)).jobs
    await rows.work.give_back("one", [ReturnedLine(batch.id, 2, 0, has_failed=False)])
    [job] = (await rows.work.take("two", 0, 1)).jobs
    listed = [line async for page in rows.results.lines("two", batch.id) for line in page]
    assert [(line.number, bool(line.object)) for line in listed] == [(1, True), (2, False), (3, False)]
    assert job.files
    await rows.results.end("two", batch.id, job.files[0].id, job.files[1].id, 1, 2)
    done = await rows.batches.get("acme", batch.id)
    assert (done.status, done.lines_completed, done.lines_failed) == ("cancelled", 1, 2)
    assert list(done.times) == ["in_progress", "cancelling", "finalizing", "cancelled"]


async def test_a_batch_whose_time_is_up_takes_no_results(rows: Rows) -> None:
    batch = await rows.begun(2)
    await rows.lines("one")
    await rows.store("one", batch, 1)
    rows.clock.go(HOUR_S)
    [job] = (await rows.work.take("two", 5, 1)).jobs
    assert (await rows.status(batch), job.batch.ending) == ("finalizing", "expired")
    assert await rows.store("one", batch, 2) == 0
    assert job.files
    await rows.results.end("two", batch.id, job.files[0].id, job.files[1].id, 1, 1)
    assert await rows.status(batch) == "expired"


async def test_a_batch_that_is_wrong_fails(rows: Rows) -> None:
    batch = await rows.batch()
    await rows.work.take("one", 0, 1)
    await rows.results.add_lines("one", batch.id, 1, [(0, 1)])
    error = {"code": "invalid_json_line", "message": "wrong", "param": "", "line": 2}
    await rows.results.end_validation("one", batch.id, [error], 1, "")
    failed = await rows.batches.get("acme", batch.id)
    assert (failed.status, failed.errors, failed.lines_total) == ("failed", [error], 0)
    assert await rows.lines("one") == []


async def test_lines_run_under_the_successor_of_a_key(rows: Rows) -> None:
    actor, keys = Actor("adm_test"), ApiKeys(rows.database, rows.clock)
    organisation, _ = await Organisations(rows.database, rows.clock).create(actor, "acme")
    project, _ = await Projects(rows.database, rows.clock).create(actor, organisation.id, "prod")
    made, _ = await keys.create(actor, project.id, "first", ALL_SCOPES, None)

    async def in_force(id: str) -> tuple[str, bool]:
        async with rows.database.read() as session:
            return await key_in_force(session, id, rows.clock())

    assert await in_force(made.id) == (made.id, False)
    successor, _, _ = await keys.rotate(actor, made.id, 60, None)
    assert await in_force(made.id) == (made.id, False)
    rows.clock.go(61)
    assert await in_force(made.id) == (successor.id, False)
    await keys.revoke(actor, successor.id)
    assert await in_force(made.id) == (successor.id, True)
    assert await in_force("") == ("", False)
    assert await in_force("key_of_another_database") == ("key_of_another_database", False)


async def test_nothing_is_written_where_nothing_is_to_do(rows: Rows) -> None:
    taken = await rows.work.take("one", 5, 5)
    assert (taken.lines, taken.jobs) == ([], [])
    with pytest.raises(AntiphonError):
        await rows.results.end("one", "batch_none", "", "", 0, 0)
