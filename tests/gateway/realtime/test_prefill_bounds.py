"""What reading ahead takes: nothing of the client's limits, memory only where there is some, and bounded work."""

from __future__ import annotations

import pytest

from services.gateway.realtime import prefill
from services.gateway.realtime.prefill import next_read
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.talking import LongStory, talking
from tests.gateway.realtime.test_prefill import SECOND
from tests.gateway.realtime.test_server_vad import ROOMY
from tests.gateway.samples import sample
from tests.gateway.scripted.control_plane import KEY, limit
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import scripted_stages
from tests.gateway.scripted.usage_records import count_of, open_accounts, usage_records
from tests.gateway.turn.test_limits import limited


def counted(outcome: str) -> float:
    return sample("antiphon_gateway_realtime_prefills_total", outcome=outcome)


async def test_it_takes_nothing_of_the_limits_and_ends_with_them(store: RedisServer) -> None:
    limits = limit("concurrent_requests", 1), limit("requests_per_minute", 1), limit("requests_per_month", 9)
    async with limited(store, *limits, story=LongStory(frames=2), workers=1, slots=8, **ROOMY) as running:
        stages = running.stages
        async with talking(stages, key=KEY) as client:
            stages.next_calls("thinker", Act("hang", 0))
            await client.append(9 * SECOND)
            await wait_until(lambda: len(stages.calls("thinker")) == 1)
            # The only request that the key may have is the response, though its turn is being read.
            await client.ask("input_audio_buffer.commit", "conversation.item.done")
            await client.ask("response.create", "response.done")
            assert client.events[-1].response.status == "completed", client.events[-1].response.status_details
            await wait_until(stages.clean)
            failed = counted("failed")
            await client.append(9 * SECOND)
            await wait_until(lambda: counted("failed") == failed + 1)
            assert len(stages.calls("preprocess")) == 2

        async def all_closed() -> bool:
            return not await open_accounts(store)

        await wait_until(all_closed)
        assert sorted(record.outcome for record in await usage_records(store)) == ["discarded", "ok"]
        assert await count_of(store, "proj_1", "requests") == 1


async def test_a_turn_that_is_cleared_is_not_read_on(store: RedisServer) -> None:
    async with (
        scripted_stages(store.url, LongStory(frames=2), workers=1, slots=8, **ROOMY) as stages,
        talking(stages) as client,
    ):
        late = counted("late")
        stages.next_calls("thinker", Act("hang", 0))
        await client.append(9 * SECOND)
        await wait_until(lambda: len(stages.calls("thinker")) == 1)
        await client.ask("input_audio_buffer.clear", "input_audio_buffer.cleared")
        await wait_until(stages.clean)
        assert counted("late") == late + 1


async def test_what_is_read_no_more_is_over_before_the_session(store: RedisServer) -> None:
    async with (
        scripted_stages(store.url, LongStory(frames=2), workers=1, slots=8, **ROOMY) as stages,
        talking(stages) as client,
    ):
        stages.next_calls("thinker", Act("hang", 0))
        await client.append(9 * SECOND)
        await wait_until(lambda: stages.hanging("thinker"))
        (session,) = stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]
        reading = session._prefill._reading  # pyright: ignore[reportPrivateUsage]
        assert reading is not None
        session._prefill.stop()  # pyright: ignore[reportPrivateUsage]
        assert not reading.done()
        await session.close()
        assert reading.done()


async def test_it_waits_for_no_memory_and_gives_its_own_back(store: RedisServer) -> None:
    async with (
        scripted_stages(store.url, LongStory(frames=2), workers=1, slots=8, **ROOMY) as stages,
        talking(stages) as client,
    ):
        budget = stages.gateway.gateway.memory.budget
        await client.append(8 * SECOND)
        await client.settled()
        held_bytes = budget.held_bytes
        with budget.take_at_once(what="Others") as others:
            assert others.grow_at_once(budget.total_bytes - held_bytes - 8 * len(SECOND))
            failed = counted("failed")
            await client.append(SECOND)
            await wait_until(lambda: counted("failed") == failed + 1)
            assert not stages.calls("preprocess")
        stages.next_calls("thinker", Act("hang", 0))
        await client.append(8 * SECOND)
        await wait_until(lambda: len(stages.calls("thinker")) == 1)
        spoken_bytes = 17 * len(SECOND)
        assert budget.held_bytes >= 2 * spoken_bytes
        await client.ask("input_audio_buffer.commit", "conversation.item.done")
        await wait_until(lambda: budget.held_bytes < 2 * spoken_bytes)


async def test_of_what_nobody_pays_for_little_is_read(store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill, "MOST_UNPAID", 2)
    async with (
        scripted_stages(store.url, LongStory(frames=2), workers=1, slots=8, **ROOMY) as stages,
        talking(stages) as client,
    ):
        (session,) = stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]

        async def reads_of(pcm: bytes) -> int:
            """Say it. Return how often the thinker has read ahead of it."""
            before = len(stages.calls("thinker"))
            await client.append(pcm)
            await client.settled()
            await wait_until(lambda: session._prefill._reading is None)  # pyright: ignore[reportPrivateUsage]
            return len(stages.calls("thinker")) - before

        # One turn that goes on, and then those that are thrown away.
        assert [await reads_of(9 * SECOND), await reads_of(8 * SECOND), await reads_of(8 * SECOND)] == [1, 1, 0]
        await client.ask("input_audio_buffer.clear", "input_audio_buffer.cleared")
        assert await reads_of(9 * SECOND) == 0
        # An answer that is paid for makes room.
        await client.ask("input_audio_buffer.commit", "conversation.item.done")
        await client.ask("response.create", "response.done")
        assert await reads_of(9 * SECOND) == 1


def test_a_long_turn_is_prepared_about_as_often_as_a_short_one() -> None:
    read = [0]
    while read[-1] < 300:  # 40 min
        read.append(next_read(read[-1]))
    assert read[:17] == list(range(17))
    assert sum(read) < 10 * read[-1]
