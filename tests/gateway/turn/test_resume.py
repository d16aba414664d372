"""Workers are lost in every order, and the client still gets the same answer."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from antiphon.v1 import talker_pb2
from services.common.errors import LEASE_GONE, MOVED, AntiphonError, BadInput, Capacity, Fault, Gone, WorkerLost
from services.common.queues.tickets import QueueName, TicketSpec
from services.common.queues.usual_costs import UsualCosts
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.samples import sample
from tests.gateway.scripted.checks import charged, check_whole, engine_failure
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import HEARD, SPEECH, Stages, Told, scripted_stages
from tests.gateway.scripted.story import Story
from tests.gateway.scripted.worker import ScriptedThinker

LOSSES = [Act("die", 0), Act("die", 1), Act("die", 4), Act("cut", 3), Act("raise", 2, engine_failure())]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
async def test_a_turn_survives_the_loss_of_its_thinker(stages: Stages, loss: Act) -> None:
    stages.next_calls("thinker", loss)
    check_whole(stages, await stages.ask(), spoken=False)
    resumed = [len(call.generated_token_ids) for call in stages.calls("thinker")]
    assert sorted(resumed) == sorted({0, loss.after} if loss.after else [0, 0])


@pytest.mark.parametrize("loss", LOSSES, ids=str)
async def test_a_turn_survives_the_loss_of_its_talker(stages: Stages, loss: Act) -> None:
    stages.next_calls("talker", loss)
    check_whole(stages, await stages.ask(**SPEECH), spoken=True)
    seeds = {call.sampling.seed for call in stages.calls("talker") if call.delivered_codes}
    assert seeds <= {4711}  # the seed that the first talker drew


@pytest.mark.parametrize(
    "orders", [*itertools.product(("thinker", "talker"), repeat=3)], ids=lambda order: "-".join(order)
)
async def test_several_losses_one_after_another(stages: Stages, orders: tuple[str, ...]) -> None:
    """Three calls of the stages are lost while one turn has media and speech in progress."""
    for stage in ("thinker", "talker"):
        count = orders.count(stage)
        stages.next_calls(stage, *(Act("die" if n < 2 else "cut", 2 + n) for n in range(count)))
    told = await stages.ask(HEARD, **SPEECH)
    check_whole(stages, told, spoken=True, audio_tokens=3)


@pytest.mark.parametrize("act", [Act("die"), Act("cut"), Act("raise", error=WorkerLost("gone"))], ids=str)
async def test_a_preprocess_worker_that_is_lost_is_replaced(stages: Stages, act: Act) -> None:
    stages.next_calls("preprocess", act)
    check_whole(stages, await stages.ask(HEARD, **SPEECH), spoken=True, audio_tokens=3)


@pytest.mark.parametrize(
    "error", [BadInput("no", param="messages"), Fault("broken"), Capacity("full", retry_after_s=1)], ids=str
)
async def test_an_error_that_no_other_worker_can_fix_fails_the_turn(stages: Stages, error: AntiphonError) -> None:
    stages.next_calls("thinker", Act("raise", 0, error))
    told = await stages.ask()
    assert told.error is not None
    assert told.error["code"] == error.code
    assert len(stages.calls("thinker")) == 1


@pytest.mark.parametrize("loss", [WorkerLost("gone"), Gone("unknown lease", code=LEASE_GONE)], ids=str)
async def test_losses_without_progress_end_with_the_loss(stages: Stages, loss: AntiphonError) -> None:
    stages.next_calls("thinker", *[Act("raise", 0, loss)] * 9)
    told = await stages.ask()
    assert told.error is not None
    assert told.error["code"] == "worker_lost"
    assert len(stages.calls("thinker")) == 4


async def test_a_client_that_reads_slowly_gets_every_token_and_frame_once(stages: Stages) -> None:
    stages.next_calls("thinker", Act("die", 2), Act("cut", 3))
    stages.next_calls("talker", Act("die", 2), Act("cut", 3))
    told = Told()
    async for chunk in stages.chunks(HEARD, **SPEECH):
        await asyncio.sleep(0.005)
        told.add(chunk)
    check_whole(stages, told, spoken=True, audio_tokens=3)


@pytest.mark.parametrize("stage", ["preprocess", "thinker", "talker"])
async def test_a_worker_that_leaves_hands_its_turns_over(stages: Stages, stage: str) -> None:
    stages.next_calls(stage, Act("hang", 0 if stage == "preprocess" else 3))
    asked = asyncio.create_task(stages.ask(HEARD, **SPEECH))
    await wait_until(lambda: stages.calls(stage))
    leaving = next(worker for worker in stages.workers if worker.stage == stage and worker.calls)
    await wait_until(lambda: leaving.script.hanging)

    def counted() -> tuple[float, float]:
        return (
            sample("antiphon_gateway_resumes_total", stage=stage, cause=MOVED),
            sample("antiphon_gateway_stage_retries_total", stage=stage),
        )

    resumed, retried = counted()
    leaving.keeper.drain()
    await leaving.keeper.hand_over(after_s=0.0)
    assert leaving.keeper.busy == 0
    check_whole(stages, await asked, spoken=True, audio_tokens=3)
    assert counted() == (resumed + 1, retried)


async def test_a_worker_without_a_replacement_keeps_its_turns(store: RedisServer) -> None:
    async with scripted_stages(store.url, workers=1) as stages:
        (thinker,) = stages.thinker
        thinker.script.pace_s = 0.05
        asked = asyncio.create_task(stages.ask())
        await wait_until(lambda: thinker.calls)
        thinker.keeper.drain()
        await thinker.keeper.hand_over(after_s=0.0)
        check_whole(stages, await asked, spoken=False)
        assert len(thinker.calls) == 1


async def test_a_replacement_takes_the_turns_as_soon_as_it_starts(store: RedisServer) -> None:
    async with scripted_stages(store.url, workers=1) as stages:
        (leaving,) = stages.thinker
        asked = await asked_of(leaving, stages)
        leaving.keeper.drain()
        handing_over = asyncio.create_task(leaving.keeper.hand_over(after_s=0.0))
        async with ScriptedThinker(store.url, INSTRUCT, stages.story) as replacement:
            check_whole(stages, await asked, spoken=False)
            await handing_over
            assert (len(leaving.calls), len(replacement.calls)) == (1, 1)


async def test_turns_that_outlast_the_drain_continue_on_the_next_worker(store: RedisServer) -> None:
    async with scripted_stages(store.url, workers=1) as stages:
        (leaving,) = stages.thinker
        asked = await asked_of(leaving, stages)
        leaving.keeper.drain()
        leaving.kill()  # as a server stops at the end of its drain
        await wait_until(lambda: stages.has_waiting("thinker", 1))
        async with ScriptedThinker(store.url, INSTRUCT, stages.story) as replacement:
            check_whole(stages, await asked, spoken=False)
            assert len(replacement.calls) == 1


async def asked_of(worker: ScriptedThinker, stages: Stages) -> asyncio.Task[Told]:
    """Ask for an answer, and wait until the only thinker has begun it and hangs."""
    stages.next_calls("thinker", Act("hang", 3))
    asked = asyncio.create_task(stages.ask())
    await wait_until(lambda: worker.script.hanging)
    return asked


async def test_a_tenant_is_charged_once_for_all_attempts(
    stages: Stages, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its real cost: prompt, answer and frames. What is left of that for the last attempt is no usual cost."""
    noted: list[tuple[str, float | None]] = []

    def note(_self: UsualCosts, queue: QueueName, spec: TicketSpec, _cost: float) -> None:
        noted.append((queue.stage, spec.known))

    monkeypatch.setattr(UsualCosts, "note", note)
    stages.next_calls("thinker", Act("die", 2), Act("cut", 3))
    stages.next_calls("talker", Act("cut", 2))
    before = await charged(store, "thinker", "talker")
    check_whole(stages, await stages.ask(**SPEECH), spoken=True)
    await wait_until(stages.clean)
    due = [before[0] + 3 + len(stages.story.token_ids), before[1] + stages.story.frames]

    async def settled() -> bool:
        return await charged(store, "thinker", "talker") == pytest.approx(due)

    await wait_until(settled)
    assert sorted(noted) == [("preprocess", None), ("talker", None), ("thinker", None)]


class Skipping(Story):
    """A talker that leaves a frame out."""

    def speech(self, frame: int, text_tokens: int) -> talker_pb2.SpeakResponse:
        return super().speech(frame + (frame > 2), text_tokens)


async def test_a_talker_that_leaves_a_frame_out_is_a_fault(stages: Stages) -> None:
    for worker in stages.talker:
        worker.story = Skipping()
    told = await stages.ask(**SPEECH)
    assert told.error is not None
    assert told.error["code"] == "internal_error"
