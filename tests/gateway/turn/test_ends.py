"""How turns end: refused, at the deadline, cut, cancelled, by a bug of ours; and what each leaves behind."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

import pytest

from services.common.channels import ChannelPool
from services.common.errors import Forbidden, Unauthenticated, Unavailable
from services.common.key_scopes import Scope
from services.common.queues import QueueClient
from services.common.redis_client import connect
from services.gateway.stages.clients import StageClients
from services.gateway.turn.conversation import Message, TextPart
from services.gateway.turn.events import Text, TurnStarted
from services.gateway.turn.intent import FieldNames, Intent, Principal
from services.gateway.turn.leases import Leases
from services.gateway.turn.model import Model, ModelKind
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.timings import TurnTimes
from services.gateway.turn.turns import Turns
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.checks import charged, check_whole, in_progress
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import HEARD, HELLO, SPEECH, Stages, Told, scripted_stages
from tests.gateway.scripted.story import CODEBOOKS, Story


def a_request(timeout_s: float = 20.0) -> TurnRequest:
    hello = [Message("user", [TextPart("messages[0]", "hello")])]
    intent = Intent(FieldNames("voice", "modalities"), time.monotonic(), hello)
    model = Model(INSTRUCT.name, ModelKind.INSTRUCT, INSTRUCT.max_model_len)
    deadline_unix_ms = round((time.time() + timeout_s) * 1000)
    return TurnRequest("req_1", Principal("default", "default"), intent, model, deadline_unix_ms)


async def test_a_prompt_that_is_too_long_is_refused_before_a_thinker_is_asked(store: RedisServer) -> None:
    async with scripted_stages(store.url, Story(prompt_tokens=INSTRUCT.max_model_len)) as stages:
        told = await stages.ask()
        assert told.error is not None
        assert (told.error["code"], told.error["param"]) == ("context_length_exceeded", "messages")
        assert stages.calls("thinker") == []
        await wait_until(stages.clean)


@pytest.mark.parametrize("stage", ["preprocess", "thinker", "talker"])
async def test_the_deadline_ends_a_turn_on_every_stage(stages: Stages, stage: str) -> None:
    stages.next_calls(stage, Act("hang", 0 if stage == "preprocess" else 2))
    told = await stages.ask(headers={"x-request-timeout-ms": "3000"}, **SPEECH)
    assert told.error is not None
    assert told.error["code"] == "deadline_exceeded"
    assert len(told.token_ids) in (0, 2, len(stages.story.token_ids))


async def test_a_deadline_that_passes_during_a_resume_ends_the_turn(store: RedisServer) -> None:
    """The only thinker dies, and no other comes."""
    async with scripted_stages(store.url, workers=1) as stages:
        stages.next_calls("thinker", Act("die", 3))
        told = await stages.ask(headers={"x-request-timeout-ms": "6000"})
        assert told.error is not None
        assert told.error["code"] == "deadline_exceeded"
        assert told.token_ids == stages.story.token_ids[:3]


@pytest.mark.parametrize(("act", "waits"), [(Act("die"), True), (Act("hang"), False)])
async def test_a_deadline_says_whether_the_turn_waited_for_a_worker(store: RedisServer, act: Act, waits: bool) -> None:
    """The only thinker dies, and no other comes; or it has the turn, and makes nothing."""
    async with scripted_stages(store.url, workers=1) as stages:
        stages.next_calls("thinker", act)
        told = await stages.ask(headers={"x-request-timeout-ms": "3000"})
        assert told.error is not None
        assert told.error["code"] == "deadline_exceeded"
        assert ("waited for a free worker" in told.error["message"]) is waits


@pytest.mark.parametrize("stage", ["thinker", "talker"])
async def test_a_client_that_leaves_pays_for_what_was_made(stages: Stages, store: RedisServer, stage: str) -> None:
    before = await charged(store, "thinker", "talker")
    stages.next_calls(stage, Act("hang", 4))
    tokens, told = 4 if stage == "thinker" else len(stages.story.token_ids), Told()
    async with aclosing(stages.chunks(**SPEECH)) as chunks:
        async for chunk in chunks:
            told.add(chunk)
            if (len(told.token_ids), len(told.codes)) == (tokens, 4 * CODEBOOKS):
                break
    await wait_until(stages.clean)
    due = [before[0] + 3 + tokens, before[1] + 4]

    async def settled() -> bool:
        return await charged(store, "thinker", "talker") == pytest.approx(due)

    await wait_until(settled)


async def test_a_turn_pays_for_what_decoding_its_media_cost(stages: Stages, store: RedisServer) -> None:
    (before,) = await charged(store, "preprocess")
    for worker in stages.preprocess:
        worker.decode_prices_s = [2.5]
    assert (await stages.ask(HEARD)).token_ids

    async def settled() -> bool:
        return (await charged(store, "preprocess"))[0] == pytest.approx(before + 1 + 25)

    await wait_until(settled)


async def test_a_turn_that_leaves_while_it_is_prepared_stays_charged_for_its_ticket(
    stages: Stages, store: RedisServer
) -> None:
    (before,) = await charged(store, "preprocess")
    stages.next_calls("preprocess", Act("hang", 0))
    leaves = asyncio.create_task(stages.ask(HEARD))
    await in_progress(stages, "preprocess")
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    await wait_until(stages.clean)
    assert (await stages.ask(HEARD)).token_ids  # what the first gave back is settled before this

    async def settled() -> bool:
        return (await charged(store, "preprocess"))[0] == pytest.approx(before + 2, abs=1e-3)

    await wait_until(settled)


async def test_a_turn_that_leaves_while_its_media_is_decoded_pays_for_that(stages: Stages, store: RedisServer) -> None:
    (before,) = await charged(store, "preprocess")
    stages.next_calls("preprocess", Act("hang", 0))
    leaves = asyncio.create_task(stages.ask(HEARD))
    await in_progress(stages, "preprocess")
    for worker in stages.preprocess:
        for call in worker.calls:
            worker.in_vain_s[call.context.request_id] = 2.5
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)

    async def settled() -> bool:  # its ticket, and what was decoded
        return (await charged(store, "preprocess"))[0] == pytest.approx(before + 1 + 25, abs=1e-3)

    await wait_until(settled)


async def test_a_turn_that_is_cut_before_it_runs_tells_its_client(store: RedisServer) -> None:
    async with scripted_stages(store.url, workers=1) as stages:
        turns = stages.gateway.gateway.turns
        async with turns.begin(a_request()) as turn:
            turns.cut()
            with pytest.raises(Unavailable):
                await anext(turn.events)
        with pytest.raises(Unavailable):
            async with turns.begin(a_request()):
                pass


async def test_the_turns_of_a_revoked_key_end_and_no_new_one_begins(store: RedisServer) -> None:
    revoked = replace(a_request(), principal=Principal("acme", "acme", "key_1"))
    async with scripted_stages(store.url, workers=1) as stages:
        turns = stages.gateway.gateway.turns
        turns.has_key = lambda _: True
        async with turns.begin(revoked) as ended, turns.begin(replace(a_request(), request_id="req_2")) as other:
            turns.has_key = lambda principal: principal.key_id != "key_1"
            turns.end_revoked()
            with pytest.raises(Unauthenticated) as told:
                await anext(ended.events)
            assert told.value.code == "revoked_api_key"
            assert isinstance(await anext(other.events), TurnStarted)
        with pytest.raises(Unauthenticated):
            async with turns.begin(revoked):
                pass


async def test_a_later_part_keeps_the_key_of_its_beginning_and_is_served_in_a_drain_where_it_says_so(
    store: RedisServer,
) -> None:
    """Realtime sessions are served in a drain, and each of their turns begins with its key anew."""
    begun = a_request()

    def part(number: int, **says: bool) -> TurnRequest:
        return replace(begun, request_id=f"req_{number}", intent=replace(begun.intent, **says))

    def expired(_: Principal) -> None:
        raise Unauthenticated("The API key has expired.", code="expired_api_key")

    async with scripted_stages(store.url, workers=1) as stages:
        turns = stages.gateway.gateway.turns
        turns.check_key = expired
        for served_in_drain in (False, True):
            with pytest.raises(Unauthenticated):
                async with turns.begin(part(2, is_served_in_drain=served_in_drain)):
                    pass
        async with turns.begin(part(3, keeps_key=True)) as turn:
            assert isinstance(await anext(turn.events), TurnStarted)
        turns.draining = True
        with pytest.raises(Unavailable):
            async with turns.begin(part(4, keeps_key=True)):
                pass
        async with turns.begin(part(5, keeps_key=True, is_served_in_drain=True)) as turn:
            assert isinstance(await anext(turn.events), TurnStarted)


def test_a_key_serves_only_for_its_scopes() -> None:
    principal = Principal("acme", "acme", "key_1", frozenset({Scope.SPEECH}))
    principal.check_scope(Scope.SPEECH)
    with pytest.raises(Forbidden) as refused:
        principal.check_scope(Scope.CHAT)
    assert refused.value.code == "missing_scope"


async def test_a_cut_ends_running_turns_with_an_error(stages: Stages) -> None:
    stages.next_calls("thinker", Act("hang", 3))
    asked = asyncio.create_task(stages.ask())
    await in_progress(stages, "thinker")
    stages.gateway.gateway.turns.cut()
    stages.gateway.gateway.turns.cut()  # a second one changes nothing
    told = await asked
    assert told.error is not None
    assert told.error["code"] == "unavailable"


async def test_a_drain_waits_for_the_turns_that_run(stages: Stages) -> None:
    turns = stages.gateway.gateway.turns
    stages.next_calls("thinker", Act("hang", 3))
    asked = asyncio.create_task(stages.ask())
    (worker,) = await in_progress(stages, "thinker")
    drained = asyncio.create_task(turns.drain())
    await wait_until(lambda: turns.draining)
    assert not drained.done()
    worker.kill()
    check_whole(stages, await asked, spoken=False)
    await drained
    turns.cut()  # nothing is left to cut
    told = await stages.ask()
    assert told.error is not None
    assert told.error["code"] == "unavailable"


async def test_closing_cancels_turns_and_releases_what_they_hold(store: RedisServer) -> None:
    async with scripted_stages(store.url, workers=1) as stages, AsyncExitStack() as stack:
        stages.next_calls("thinker", Act("hang", 3))
        redis, channels = connect(store.url), ChannelPool()
        stack.push_async_callback(redis.aclose)
        stack.push_async_callback(channels.close)
        queues = QueueClient(redis, "closes")
        running = asyncio.create_task(queues.run())
        async with Turns(queues, StageClients.over(channels)) as turns:
            turn = await stack.enter_async_context(turns.begin(a_request()))
            assert isinstance(await anext(turn.events), TurnStarted)
            assert isinstance(await anext(turn.events), Text)
        await wait_until(stages.clean)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_clean_up_that_fails_ends_no_other_turn(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(self: Leases, stage: str, cost: float) -> None:
        raise RuntimeError("a bug")

    stages.next_calls("thinker", Act("hang", 3))
    other = asyncio.create_task(stages.ask())
    (worker,) = await in_progress(stages, "thinker")
    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(Leases, "settle", fails)
        check_whole(stages, await stages.ask(**SPEECH), spoken=True)
        await wait_until(lambda: "end req_" in caplog.text)
    worker.kill()
    check_whole(stages, await other, spoken=False)
    check_whole(stages, await stages.ask(), spoken=False)


@pytest.mark.parametrize("method", ["prepared", "tokens"])
async def test_a_bug_ends_its_turn_and_no_other(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    def fails(self: TurnTimes) -> None:
        raise RuntimeError("a bug")

    stages.next_calls("talker", Act("hang", 3))
    other_told = Told()

    async def ask_other() -> None:
        async for chunk in stages.chunks(**SPEECH):
            other_told.add(chunk)

    other = asyncio.create_task(ask_other())
    (worker,) = await in_progress(stages, "talker")
    await wait_until(lambda: other_told.token_ids == stages.story.token_ids)
    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(TurnTimes, method, fails)
        told = await stages.ask(HELLO)
    assert told.error is not None
    assert (told.error["code"], "a bug" in told.error["message"]) == ("internal_error", False)
    assert "a bug" in caplog.text
    worker.kill()
    await other
    check_whole(stages, other_told, spoken=True)


async def test_an_answer_without_anything_to_speak_has_no_frames(store: RedisServer) -> None:
    async with scripted_stages(store.url, Story(frames=0)) as stages:
        check_whole(stages, await stages.ask(**SPEECH), spoken=True)
        await wait_until(stages.clean)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), TimeoutError()])
async def test_a_turn_ends_as_a_fault_when_something_that_it_waits_for_was_cancelled_or_late(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Nobody cancelled the turn and its deadline has not passed: its client waits for an end."""

    async def fail(_self: Leases, _stages: object) -> None:
        raise error

    monkeypatch.setattr(Leases, "wake", fail)
    told = await stages.ask()
    assert told.error is not None
    assert told.error["code"] == "internal_error"
    monkeypatch.undo()
    await wait_until(stages.clean)
