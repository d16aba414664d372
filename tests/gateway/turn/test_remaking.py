"""What an earlier stage made is lost, and made again: features and hidden states."""

from __future__ import annotations

import asyncio

import pytest

from antiphon.v1 import common_pb2, preprocess_pb2
from services.common.errors import Capacity
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.scripted.checks import check_whole, engine_failure, in_mid_speech, in_progress
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import HEARD, SPEECH, Stages, Told, scripted_stages
from tests.gateway.scripted.story import Story


async def test_lost_features_are_prepared_again(stages: Stages) -> None:
    """The worker that prepared them dies before the thinker is lost, so that the next one cannot pull them."""
    stages.next_calls("thinker", Act("hang", 3))
    asked = asyncio.create_task(stages.ask(HEARD))
    (thinker,) = await in_progress(stages, "thinker")
    next(worker for worker in stages.preprocess if worker.calls).kill()
    thinker.kill()
    check_whole(stages, await asked, spoken=False, audio_tokens=3)
    assert len(stages.calls("preprocess")) == 2


async def test_features_of_another_file_end_a_turn_that_prepares_again(stages: Stages) -> None:
    """A URL gives another file of the same length: the prompt is the same, its features are not."""
    stages.next_calls("thinker", Act("hang", 3))
    asked = asyncio.create_task(stages.ask(HEARD))
    (thinker,) = await in_progress(stages, "thinker")
    for worker in stages.preprocess:
        worker.story = Other()
    next(worker for worker in stages.preprocess if worker.calls).kill()
    thinker.kill()
    told = await asked
    assert told.error is not None
    assert told.error["code"] == "media_changed"
    assert told.error["param"] == "messages"


async def test_a_new_version_s_features_take_the_place_of_lost_ones_that_nobody_read(stages: Stages) -> None:
    """Preprocess is upgraded before a thinker begins: its hashes name versions, so all of them differ."""
    told = await asked_over_an_upgrade(stages, tokens=0)
    check_whole(stages, told, spoken=False, audio_tokens=3)
    assert [call.features[0].hash for call in stages.calls("thinker") if call.features[0].hash == "another"]


async def test_an_answer_never_mixes_the_features_of_two_versions(stages: Stages) -> None:
    told = await asked_over_an_upgrade(stages, tokens=3)
    assert told.error is not None
    assert (told.error["code"], told.error["type"]) == ("features_changed", "server_error")
    assert told.token_ids == stages.story.token_ids[:3]


async def test_a_worker_of_the_old_version_prepares_again_for_a_begun_answer(stages: Stages) -> None:
    """Whether the worker of the new version is asked before it or not."""
    told = await asked_over_an_upgrade(stages, tokens=3, old=1)
    check_whole(stages, told, spoken=False, audio_tokens=3)


async def test_a_new_version_that_counts_other_tokens_fits_no_turn(stages: Stages) -> None:
    told = await asked_over_an_upgrade(stages, tokens=0, prompt_tokens=4)
    assert told.error is not None
    assert told.error["code"] == "features_changed"


async def asked_over_an_upgrade(stages: Stages, *, tokens: int, old: int = 0, prompt_tokens: int = 3) -> Told:
    """Ask, and upgrade preprocess but for `old` workers when the thinker has sent `tokens`. Then lose the thinker and
    the features."""
    told = Told()

    async def ask() -> None:
        async for chunk in stages.chunks(HEARD):
            told.add(chunk)

    stages.next_calls("thinker", Act("hang", tokens))
    asking = asyncio.create_task(ask())
    (thinker,) = await in_progress(stages, "thinker")
    await wait_until(lambda: len(told.token_ids) == tokens)
    (made_by,) = [worker for worker in stages.preprocess if worker.calls]
    others = [worker for worker in stages.preprocess if worker is not made_by]
    for worker in others[old:]:
        worker.story = Other(fingerprint="libraries 2", prompt_tokens=prompt_tokens)
    made_by.kill()
    thinker.kill()
    await asking
    return told


class Other(Story):
    """Another recording of the same length."""

    def feature(self, index: int, ref: common_pb2.BlobRef) -> preprocess_pb2.Feature:
        feature = super().feature(index, ref)
        feature.hash = "another"
        return feature


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
        await wait_until(lambda: stages.hanging("talker"))
        lost = next(worker for worker in stages.thinker if worker.calls)
        (other,) = [worker for worker in stages.thinker if worker is not lost]
        await wait_until(lambda: not lost.keeper.busy)
        lost.kill()
        busy: list[asyncio.Task[Told]] = []
        for _ in range(2):  # its slots
            stages.next_calls("thinker", Act("hang", 1))
            busy.append(asyncio.create_task(stages.ask()))
            await wait_until(lambda: other.script.hanging == len(busy))
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


async def test_two_stages_that_miss_the_same_features_have_them_prepared_once(stages: Stages) -> None:
    """Text and speech are both in progress. The thinker resumes, and another one makes hidden states again."""
    stages.next_calls("thinker", Act("hang", 5))
    stages.next_calls("talker", Act("hang", 2))
    asked = asyncio.create_task(stages.ask(HEARD, **SPEECH))
    await wait_until(lambda: stages.hanging("thinker") and stages.hanging("talker"))
    for worker in stages.preprocess:
        worker.script.pace_s = 0.2
    for worker in [worker for worker in stages.workers if worker.calls]:
        worker.kill()
    check_whole(stages, await asked, spoken=True, audio_tokens=3)
    assert len(stages.calls("preprocess")) == 2


async def test_new_hidden_states_serve_a_talker_that_missed_the_old_ones(stages: Stages) -> None:
    """The thinker dies before the talker has pulled from it. Its successor sends hidden states anew."""
    for talker in stages.talker:
        talker.may_pull.clear()
    stages.next_calls("thinker", Act("hang", 3))
    asked = asyncio.create_task(stages.ask(HEARD, **SPEECH))
    await wait_until(lambda: stages.calls("talker"))
    (lost,) = await in_progress(stages, "thinker")
    lost.kill()
    await wait_until(lambda: len(stages.calls("thinker")) == 2)
    await wait_until(lambda: not any(worker.keeper.busy for worker in stages.thinker if worker is not lost))
    for talker in stages.talker:
        talker.may_pull.set()
    check_whole(stages, await asked, spoken=True, audio_tokens=3)
    assert len(stages.calls("thinker")) == 2
    assert len(stages.calls("talker")) == 2


@pytest.mark.parametrize("loss", [Act("die", 0), Act("cut", 0), Act("raise", 0, engine_failure())], ids=str)
@pytest.mark.parametrize("stage", ["preprocess", "thinker"])
async def test_a_worker_is_lost_while_it_makes_something_again(stages: Stages, stage: str, loss: Act) -> None:
    """Features and hidden states are both gone: the prefill that makes the latter needs the former."""
    asked, thinker, talker = await in_mid_speech(stages)
    for worker in (thinker, *(worker for worker in stages.preprocess if worker.calls)):
        worker.kill()
    stages.next_calls(stage, loss)
    talker.kill()
    check_whole(stages, await asked, spoken=True, audio_tokens=3)
    assert len(stages.calls("talker")) >= 3
