"""Requests on a real engine: order of events, ends, limits, cancellation, and wrong requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from copy import copy
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY
from vllm.sampling_params import SamplingParams

from antiphon.v1 import common_pb2, preprocess_pb2, thinker_pb2
from services.common.errors import MOVED, AntiphonError, BadInput, ContextTooLong, Gone, NotFound, TimedOut, Unavailable
from services.thinker.service import Thinker
from tests.fixtures.oracle import Oracle
from tests.fixtures.wait import wait_until
from tests.thinker.cases import CASES
from tests.thinker.collect import collect
from tests.thinker.conftest import Prepare
from tests.thinker.prepared import Owner, Prepared

pytestmark = pytest.mark.asyncio(loop_scope="session")
STOP, LENGTH = thinker_pb2.FINISH_REASON_STOP, thinker_pb2.FINISH_REASON_LENGTH


def preemptions() -> float:
    return REGISTRY.get_sample_value("antiphon_thinker_preemptions_total") or 0.0


Edit = Callable[[thinker_pb2.GenerateRequest], Any]


def unfinished(thinker: Thinker) -> int:
    return thinker.engine.unfinished_requests


async def test_text_comes_as_it_is_made_and_adds_up(thinker: Thinker, prepared: Prepare, oracle: Oracle) -> None:
    sampling = {"max_tokens": 60, "ignore_eos": True, "temperature": 1.5, "seed": 3}
    got = await collect(thinker, prepared("text").request("stream", sampling=sampling))
    decoded = oracle.processor.tokenizer.decode(got.token_ids, skip_special_tokens=True)
    assert decoded.startswith(got.content)
    assert len(decoded) - len(got.content) <= 1  # an incomplete character at the end
    assert len(got.last) > 1  # tokens that are made while nobody reads come together
    assert got.last == [False] * (len(got.last) - 1) + [True]
    assert got.kinds == ["text"] * len(got.last) + ["done"]


def as_messages(prepared: Prepared, *messages: preprocess_pb2.Message) -> thinker_pb2.GenerateRequest:
    request = prepared.request("messages", sampling={"max_tokens": 8})
    request.ClearField("prompt_token_ids")
    request.messages.extend(messages)
    return request


async def test_a_text_may_come_as_messages(thinker: Thinker, prepared: Prepare) -> None:
    messages = [
        preprocess_pb2.Message(
            role=said["role"], parts=[preprocess_pb2.Part(text=part["text"]) for part in said["content"]]
        )
        for said in CASES["text"].messages
    ]
    got = await collect(thinker, as_messages(prepared("text"), *messages))
    assert (got.kinds[0], got.prompt_token_ids) == ("prompt", prepared("text").prompt_token_ids)
    ids = await collect(thinker, prepared("text").request("ids", sampling={"max_tokens": 8}))
    assert (got.token_ids, got.content) == (ids.token_ids, ids.content)


async def test_messages_with_media_or_beside_token_ids_are_refused(thinker: Thinker, prepared: Prepare) -> None:
    text = preprocess_pb2.Message(role="user", parts=[preprocess_pb2.Part(text="a")])
    image = preprocess_pb2.Part(path="messages[0].content[0]", image=preprocess_pb2.ImagePart())
    both = as_messages(prepared("text"), text)
    both.prompt_token_ids.append(1)
    for request, param in (
        (both, "messages"),
        (as_messages(prepared("text"), preprocess_pb2.Message(role="user", parts=[image])), "messages[0].content[0]"),
    ):
        with pytest.raises(BadInput) as caught:
            await collect(thinker, request)
        assert caught.value.param == param


async def test_the_last_token_is_marked_where_max_tokens_ends_the_answer(thinker: Thinker, prepared: Prepare) -> None:
    for tokens in (1, 2, 7):
        got = await collect(
            thinker, prepared("text").request("length", sampling={"max_tokens": tokens, "ignore_eos": True})
        )
        assert len(got.token_ids) == tokens
        assert got.last[-1]
        assert (got.done.finish_reason, got.done.completion_tokens) == (LENGTH, tokens)


async def test_the_end_token_is_the_last_one_and_has_no_text(
    thinker: Thinker, prepared: Prepare, oracle: Oracle
) -> None:
    end = oracle.config.im_end_token_id
    got = await collect(
        thinker, prepared("text").request("end", sampling={"logit_bias": {end: 100.0}, "max_tokens": 50})
    )
    assert (got.token_ids, got.content, got.last) == ([end], "", [True])
    assert got.done.finish_reason == STOP


async def test_a_stop_string_ends_the_answer_and_frees_the_engine(thinker: Thinker, prepared: Prepare) -> None:
    whole = await collect(thinker, prepared("text").request("whole", sampling={"max_tokens": 40, "ignore_eos": True}))
    stop = whole.content[12:15]
    got = await collect(
        thinker,
        prepared("text").request("stop", sampling={"max_tokens": 400, "ignore_eos": True, "stop": ["\x00", stop]}),
    )
    assert got.content == whole.content[: whole.content.index(stop)]
    assert got.token_ids == whole.token_ids[: len(got.token_ids)]
    assert got.last[-1]
    assert (got.done.finish_reason, got.done.stop_string) == (STOP, stop)
    assert got.done.completion_tokens == len(got.token_ids)
    await wait_until(lambda: unfinished(thinker) == 0)


async def test_a_repeated_prompt_is_cached_within_its_tenant(thinker: Thinker, prepared: Prepare) -> None:
    def ask(tenant: str) -> thinker_pb2.GenerateRequest:
        return prepared("image").request("cached", sampling={"max_tokens": 2}, tenant=tenant)

    first = await collect(thinker, ask("cache-a"))
    second = await collect(thinker, ask("cache-a"))
    other = await collect(thinker, ask("cache-b"))
    assert (first.done.cached_tokens, other.done.cached_tokens) == (0, 0)
    assert second.done.cached_tokens >= 32
    assert first.token_ids == second.token_ids == other.token_ids


async def test_features_are_pulled_once_for_a_conversation(thinker: Thinker, prepared: Prepare, owner: Owner) -> None:
    request = prepared("several turns").request("pulled", sampling={"max_tokens": 1}, tenant="pulls-once")
    owner.pulled.clear()
    await collect(thinker, request)
    assert sorted(owner.pulled) == sorted(prepared("several turns").blobs)
    await collect(thinker, request)
    assert len(owner.pulled) == len(request.features)


async def test_closing_a_request_frees_the_engine_at_once(thinker: Thinker, prepared: Prepare) -> None:
    request = prepared("text").request("left", sampling={"max_tokens": 4000, "ignore_eos": True})
    async with aclosing(thinker.generator.run(request)) as events:
        async for _ in events:
            break
    await wait_until(lambda: unfinished(thinker) == 0)


async def test_cancelling_a_task_frees_the_engine_at_once(thinker: Thinker, prepared: Prepare) -> None:
    request = prepared("audio").request(
        "cancelled", sampling={"max_tokens": 4000, "ignore_eos": True}, wants_hidden_states=True
    )
    task = asyncio.create_task(collect(thinker, request), name="cancelled turn")
    await wait_until(lambda: unfinished(thinker) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: unfinished(thinker) == 0)
    thinker.hidden_states.release("cancelled")
    assert thinker.hidden_states.used_bytes == 0


async def test_suspects_enter_the_engine_one_at_a_time(thinker: Thinker, prepared: Prepare) -> None:
    """The first one's prefill is long; until its first token the second one is not in the engine."""

    def suspect(request: thinker_pb2.GenerateRequest) -> asyncio.Task[Any]:
        request.context.failed_engines = 1
        return asyncio.create_task(collect(thinker, request))

    first = suspect(Prepared([5] * 3000).request("first suspect", sampling={"max_tokens": 1}))
    await wait_until(lambda: unfinished(thinker) == 1)
    second = suspect(prepared("text").request("second suspect", sampling={"max_tokens": 8}))
    most = 0

    def first_is_over() -> bool:
        nonlocal most
        most = max(most, unfinished(thinker))
        return first.done()

    await wait_until(first_is_over)
    assert most == 1
    assert len((await second).token_ids) == 8


async def test_a_dead_engine_blames_no_request_that_it_never_had(thinker: Thinker) -> None:
    engine = copy(thinker.engine)
    engine.died = asyncio.Event()
    engine.died.set()
    with pytest.raises(Unavailable) as caught:
        await anext(engine.generate("late", cast(Any, None), SamplingParams()))
    assert caught.value.code == MOVED


async def test_a_deadline_ends_the_request(thinker: Thinker, prepared: Prepare) -> None:
    soon_ms = round((time.time() + 0.3) * 1000)
    request = prepared("text").request(
        "deadline", sampling={"max_tokens": 4000, "ignore_eos": True}, deadline_unix_ms=soon_ms
    )
    with pytest.raises(TimedOut):
        await collect(thinker, request)
    await wait_until(lambda: unfinished(thinker) == 0)
    late = prepared("text").request("late", deadline_unix_ms=round((time.time() - 1) * 1000))
    with pytest.raises(TimedOut):
        await collect(thinker, late)


def wrong_model(request: thinker_pb2.GenerateRequest) -> None:
    request.model = "another"


def no_prompt(request: thinker_pb2.GenerateRequest) -> None:
    del request.prompt_token_ids[:]


def id_too_large(request: thinker_pb2.GenerateRequest) -> None:
    request.prompt_token_ids[0] = 2**32 - 1


def prompt_too_long(request: thinker_pb2.GenerateRequest) -> None:
    request.prompt_token_ids.extend([1] * 6000)


def feature_moved(request: thinker_pb2.GenerateRequest) -> None:
    request.features[0].offset += 1


def feature_longer(request: thinker_pb2.GenerateRequest) -> None:
    request.features[0].length += 1


def feature_of_another_kind(request: thinker_pb2.GenerateRequest) -> None:
    request.features[0].modality = common_pb2.MODALITY_IMAGE


def feature_missing(request: thinker_pb2.GenerateRequest) -> None:
    del request.features[:]


def feature_twice(request: thinker_pb2.GenerateRequest) -> None:
    request.features.append(request.features[0])


def feature_gone(request: thinker_pb2.GenerateRequest) -> None:
    request.features[0].hash = "gone"
    request.features[0].kwargs.key = "gone"


def feature_too_large(request: thinker_pb2.GenerateRequest) -> None:
    request.features[0].hash = "large"
    request.features[0].kwargs.size_bytes = 1 << 40


def bad_temperature(request: thinker_pb2.GenerateRequest) -> None:
    request.sampling.temperature = -1


def too_many_tokens(request: thinker_pb2.GenerateRequest) -> None:
    request.sampling.max_tokens = 2**32 - 1


def turns(outcome: str) -> float:
    return REGISTRY.get_sample_value("antiphon_thinker_turns_total", {"outcome": outcome}) or 0.0


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (wrong_model, NotFound),
        (no_prompt, BadInput),
        (id_too_large, BadInput),
        (prompt_too_long, ContextTooLong),
        (feature_moved, BadInput),
        (feature_longer, BadInput),
        (feature_of_another_kind, BadInput),
        (feature_missing, BadInput),
        (feature_twice, BadInput),
        (feature_gone, Gone),
        (feature_too_large, BadInput),
        (bad_temperature, BadInput),
        (too_many_tokens, ContextTooLong),
    ],
)
async def test_a_wrong_request_is_refused_and_the_engine_lives(
    edit: Edit, kind: type[AntiphonError], thinker: Thinker, prepared: Prepare
) -> None:
    request = prepared("audio").request("wrong", sampling={"max_tokens": 2}, tenant=f"wrong-{edit.__name__}")
    edit(request)
    before = turns("refused"), turns("failed")
    with pytest.raises(kind):
        await collect(thinker, request)
    assert (turns("refused"), turns("failed")) == (before[0] + 1, before[1])
    assert not thinker.engine.died.is_set()
    assert unfinished(thinker) == 0


async def test_features_of_another_item_are_refused_and_the_engine_lives(
    thinker: Thinker, prepared: Prepare, owner: Owner
) -> None:
    audio, image = prepared("audio"), prepared("image")
    longer = prepared("several turns")
    (image_key,), audio_keys = image.blobs, [key for key in longer.blobs if key.startswith("audio")]
    for key, blob in (
        ("image", image.blobs[image_key]),
        ("longer", longer.blobs[audio_keys[0]]),
        ("noise", b"\xff" * 99),
    ):
        request = audio.request("mixed-up", sampling={"max_tokens": 2}, tenant="mixed-up")
        owner.blobs[key] = blob
        request.features[0].hash = key
        request.features[0].kwargs.key, request.features[0].kwargs.size_bytes = key, len(blob)
        with pytest.raises(BadInput):
            await collect(thinker, request)
    got = await collect(thinker, audio.request("alive", sampling={"max_tokens": 2}))
    assert len(got.token_ids) == 2


async def test_extreme_but_allowed_sampling_leaves_the_engine_alive(thinker: Thinker, prepared: Prepare) -> None:
    extremes: list[dict[str, Any]] = [
        {"temperature": 2.0, "top_k": 2**31 - 1, "top_p": 1e-6},
        {"temperature": 1e-6, "seed": -(2**63)},
        {"repetition_penalty": 0.01, "temperature": 1.0, "min_p": 1.0},
        {"repetition_penalty": 10.0, "presence_penalty": -2, "frequency_penalty": 2},
        {"logit_bias": dict.fromkeys(range(1024), -100.0), "stop_token_ids": list(range(64))},
        {"min_tokens": 3, "stop": ["x" * 256] * 16, "seed": 2**63 - 1, "temperature": 1.0},
    ]
    async with asyncio.TaskGroup() as group:
        turns = [
            group.create_task(
                collect(thinker, prepared("text").request(f"extreme-{n}", sampling={"max_tokens": 5, **sampling}))
            )
            for n, sampling in enumerate(extremes)
        ]
    assert all(turn.result().token_ids for turn in turns)


async def test_preempted_requests_give_the_same_answers(thinker: Thinker) -> None:
    prompts = [Prepared([50 + (11 * i + 3 * n) % 1900 for i in range(600)]) for n in range(8)]
    sampling = {"max_tokens": 200, "ignore_eos": True}
    before = preemptions()
    async with asyncio.TaskGroup() as group:
        together = [
            group.create_task(collect(thinker, prompt.request(f"crowd-{n}", sampling=sampling, tenant=f"crowd-{n}")))
            for n, prompt in enumerate(prompts)
        ]
    assert preemptions() > before
    for n in (0, 7):  # the first and the last to come
        alone = await collect(thinker, prompts[n].request("alone", sampling=sampling, tenant="alone"))
        assert together[n].result().token_ids == alone.token_ids
