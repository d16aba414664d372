"""Workers are lost in every order, and the client still gets the same answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from antiphon.v1 import talker_pb2
from services.common.errors import ENGINE_FAILED, MOVED, AntiphonError, BadInput, Capacity, Fault, WorkerLost
from services.common.queues.keys import QUEUE_KEYS, queue_prefix
from services.common.redis_client import connect
from services.gateway.turn import speak
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.samples import sample
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import HEARD, SPEECH, Stages, Told, scripted_stages
from tests.gateway.scripted.story import CODEBOOKS, Story
from tests.gateway.scripted.worker import ScriptedTalker, ScriptedThinker


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncGenerator[Stages]:
    async with scripted_stages(store.url, workers=3) as running:
        yield running
        await wait_until(running.clean)


def engine_failure() -> WorkerLost:
    return WorkerLost("the engine is gone", code=ENGINE_FAILED)


def check_whole(stages: Stages, told: Told, *, spoken: bool, audio_tokens: int = 0) -> None:
    """Assert that the answer equals that of an undisturbed turn, with each token and frame counted once."""
    story = stages.story
    assert told.error is None
    assert (told.token_ids, told.text, told.roles) == (story.token_ids, story.text, 1)
    assert told.finish_reason == "stop"
    if spoken:
        assert (told.codes, told.pcm, told.codebooks) == (story.codes, story.pcm, CODEBOOKS)
    usage = told.usage
    assert usage["prompt_tokens"] == 3 + audio_tokens
    assert usage["completion_tokens"] == len(story.token_ids) + (story.frames if spoken else 0)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2


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


async def test_lost_features_are_prepared_again(stages: Stages) -> None:
    """The worker that prepared them dies when the thinker is lost, so that the next one cannot pull them."""
    stages.next_calls("thinker", Act("die", 3))
    asked = asyncio.create_task(stages.ask(HEARD))
    await wait_until(lambda: stages.calls("thinker"))
    next(worker for worker in stages.preprocess if worker.calls).kill()
    check_whole(stages, await asked, spoken=False, audio_tokens=3)
    assert len(stages.calls("preprocess")) == 2


async def in_mid_speech(stages: Stages) -> tuple[asyncio.Task[Told], ScriptedThinker, ScriptedTalker]:
    """Return a spoken answer whose text is complete and whose talker hangs, and the workers that it is on."""
    stages.next_calls("talker", Act("hang", 4))
    asked = asyncio.create_task(stages.ask(HEARD, **SPEECH))
    await wait_until(lambda: not stages.talker[0].script.acts)
    thinker = next(worker for worker in stages.thinker if worker.calls)
    await wait_until(lambda: not thinker.keeper.busy)
    return asked, thinker, next(worker for worker in stages.talker if worker.calls)


async def test_lost_hidden_states_are_recomputed_by_a_prefill(stages: Stages) -> None:
    """The thinker has ended its answer and dies; then the talker is lost, and the next one finds no hidden states."""
    asked, thinker, talker = await in_mid_speech(stages)
    thinker.kill()
    talker.kill()
    check_whole(stages, await asked, spoken=True, audio_tokens=3)
    prefills = [call for call in stages.calls("thinker") if call.generated_token_ids]
    assert [(len(call.generated_token_ids), call.sampling.max_tokens) for call in prefills] == [(1, 1)]
    assert prefills[0].wants_hidden_states


async def test_hidden_states_and_features_are_lost_together(stages: Stages) -> None:
    asked, thinker, talker = await in_mid_speech(stages)
    for worker in (thinker, *(worker for worker in stages.preprocess if worker.calls)):
        worker.kill()
    talker.kill()
    check_whole(stages, await asked, spoken=True, audio_tokens=3)


async def test_recomputing_lost_state_waits_for_a_full_worker(stages: Stages) -> None:
    """Features and hidden states are lost in mid-speech, and the workers that could recompute them are full."""
    asked, thinker, talker = await in_mid_speech(stages)
    for worker in (thinker, *(worker for worker in stages.preprocess if worker.calls)):
        worker.kill()
    full = Act("raise", 0, Capacity("full", retry_after_s=0.01))
    stages.next_calls("preprocess", full)
    stages.next_calls("thinker", full)
    talker.kill()
    check_whole(stages, await asked, spoken=True, audio_tokens=3)
    assert not stages.preprocess[0].script.acts
    assert not stages.thinker[0].script.acts


async def test_a_full_queue_admits_recomputation(store: RedisServer) -> None:
    """The thinkers' queue is full when a running turn loses its hidden states. The turn's prefill goes first."""
    async with scripted_stages(store.url, workers=2, max_waiting=1, max_waiting_per_tenant=1) as stages:
        stages.next_calls("talker", Act("hang", 4))
        asked = asyncio.create_task(stages.ask(HEARD, **SPEECH))
        await wait_until(lambda: not stages.talker[0].script.acts)  # a call hangs
        lost = next(worker for worker in stages.thinker if worker.calls)
        (other,) = [worker for worker in stages.thinker if worker is not lost]
        await wait_until(lambda: not lost.keeper.busy)
        lost.kill()
        busy: list[asyncio.Task[Told]] = []
        for _ in range(2):  # its slots
            stages.next_calls("thinker", Act("hang", 1))
            busy.append(asyncio.create_task(stages.ask()))
            await wait_until(lambda: not other.script.acts)
        waiting = asyncio.create_task(stages.ask())
        await wait_until(lambda: stages.has_waiting("thinker", 1))
        next(worker for worker in stages.talker if worker.calls).kill()
        await wait_until(lambda: stages.has_waiting("thinker", 2))
        busy[0].cancel()
        check_whole(stages, await asked, spoken=True, audio_tokens=3)
        check_whole(stages, await waiting, spoken=False)
        busy[1].cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await wait_until(stages.clean)


async def test_a_resume_waits_for_a_full_worker(stages: Stages) -> None:
    stages.next_calls("thinker", Act("die", 3), Act("raise", 0, Capacity("full", retry_after_s=0.01)))
    check_whole(stages, await stages.ask(), spoken=False)


@pytest.mark.parametrize(
    "error", [BadInput("no", param="messages"), Fault("broken"), Capacity("full", retry_after_s=1)], ids=str
)
async def test_an_error_that_no_other_worker_can_fix_fails_the_turn(stages: Stages, error: AntiphonError) -> None:
    stages.next_calls("thinker", Act("raise", 0, error))
    told = await stages.ask()
    assert told.error is not None
    assert told.error["code"] == error.code
    assert len(stages.calls("thinker")) == 1


async def test_a_fatal_request_fails_with_its_own_code(stages: Stages) -> None:
    stages.next_calls("thinker", *[Act("raise", 0, engine_failure())] * 3)
    told = await stages.ask()
    assert told.error is not None
    assert told.error["code"] == "fatal_request"
    assert len(stages.calls("thinker")) == 2
    stages.next_calls("thinker")
    check_whole(stages, await stages.ask(), spoken=False)


async def test_engines_that_fail_after_progress_do_not_count(stages: Stages) -> None:
    stages.next_calls("thinker", *[Act("raise", 2, engine_failure())] * 4)
    check_whole(stages, await stages.ask(), spoken=False)


async def test_a_request_cannot_end_one_engine_per_token(stages: Stages) -> None:
    stages.next_calls("thinker", *[Act("raise", 1, engine_failure())] * 9)
    told = await stages.ask()
    assert told.error is not None
    assert told.error["code"] == "fatal_request"
    assert len(stages.calls("thinker")) == 6


async def test_a_talker_waits_for_a_thinker_that_comes_back_late(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The talker ends a call with a silent caller, so the gateway sends empty texts meanwhile."""
    monkeypatch.setattr(speak, "TEXT_EVERY_S", 0.01)
    stages.next_calls("thinker", Act("hang", 3))
    asked = asyncio.create_task(stages.ask(**SPEECH))
    await wait_until(lambda: any(talker.empty_texts >= 3 for talker in stages.talker))
    next(worker for worker in stages.thinker if worker.calls).kill()
    check_whole(stages, await asked, spoken=True)


async def test_losses_without_progress_end_with_the_loss(stages: Stages) -> None:
    stages.next_calls("thinker", *[Act("raise", 0, WorkerLost("gone"))] * 9)
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
    await wait_until(lambda: not leaving.script.acts)

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


async def test_a_tenant_is_charged_once_for_all_attempts(stages: Stages, store: RedisServer) -> None:
    """The only tenant's clock advances by the real cost of its turns: prompt, answer and frames."""
    stages.next_calls("thinker", Act("die", 2), Act("cut", 3))
    stages.next_calls("talker", Act("cut", 2))
    redis = connect(store.url)

    async def clock(stage: str) -> float:
        await wait_until(stages.clean)
        prefix = queue_prefix(stage, INSTRUCT.name)
        return float(await redis.zscore(f"{prefix}:{QUEUE_KEYS['fair']}0", "default") or 0)

    try:
        before = [await clock(stage) for stage in ("thinker", "talker")]
        check_whole(stages, await stages.ask(**SPEECH), spoken=True)
        cost = [3 + len(stages.story.token_ids), stages.story.frames]
        for stage, start, expected in zip(("thinker", "talker"), before, cost, strict=True):

            async def settled(stage: str = stage, due: float = start + expected) -> bool:
                return await clock(stage) == pytest.approx(due)

            await wait_until(settled)
    finally:
        await redis.aclose()


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
