"""Tokens equal transformers' generate: every modality, alone and together, greedy and seeded."""

from __future__ import annotations

import asyncio

import pytest

from antiphon.v1 import preprocess_pb2
from services.thinker.service import Thinker
from tests.fixtures.oracle import Oracle, ThinkerOptions
from tests.talker.cases import AUDIO, VIDEO, Case, text, turn
from tests.thinker.cases import CASES
from tests.thinker.collect import collect
from tests.thinker.conftest import Ask, Prepare
from tests.thinker.prepared import Prepared

pytestmark = pytest.mark.asyncio(loop_scope="session")
TOKENS = 24
SAMPLED = (
    ThinkerOptions(max_new_tokens=TOKENS, temperature=1.0, seed=11),
    ThinkerOptions(max_new_tokens=TOKENS, temperature=0.7, top_k=20, seed=12),
    ThinkerOptions(max_new_tokens=TOKENS, temperature=1.3, top_p=0.9, seed=13),
    ThinkerOptions(max_new_tokens=TOKENS, temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.1, seed=14),
)


def sampling_of(options: ThinkerOptions) -> dict[str, object]:
    return {
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "repetition_penalty": options.repetition_penalty,
        "seed": options.seed,
        "max_tokens": options.max_new_tokens,
    }


@pytest.mark.parametrize("name", CASES)
async def test_greedy_tokens_equal_transformers(name: str, thinker: Thinker, prepared: Prepare, answer: Ask) -> None:
    wanted, prompt = answer(name), prepared(name)
    assert prompt.prompt_token_ids == wanted.prompt_ids
    got = await collect(thinker, prompt.request(f"alone-{name}", sampling={"max_tokens": TOKENS}))
    assert got.token_ids == wanted.token_ids


async def test_all_modalities_at_once_give_the_same_tokens(thinker: Thinker, prepared: Prepare, answer: Ask) -> None:
    async with asyncio.TaskGroup() as group:
        turns = [
            (
                name,
                group.create_task(
                    collect(
                        thinker,
                        prepared(name).request(f"{name}-{copy}", sampling={"max_tokens": TOKENS}, tenant=str(copy)),
                    )
                ),
            )
            for copy in range(2)
            for name in CASES
        ]
    for name, got in turns:
        assert got.result().token_ids == answer(name).token_ids, name


@pytest.mark.parametrize("name", ["text", "audio"])
@pytest.mark.parametrize("options", SAMPLED, ids=lambda options: f"seed-{options.seed}")
async def test_seeded_tokens_equal_transformers(
    options: ThinkerOptions, name: str, thinker: Thinker, prepared: Prepare, answer: Ask
) -> None:
    got = await collect(thinker, prepared(name).request("seeded", sampling=sampling_of(options)))
    assert got.token_ids == answer(name, options).token_ids
    again = await collect(thinker, prepared(name).request("seeded-again", sampling=sampling_of(options)))
    assert again.token_ids == got.token_ids


async def test_chunked_prefill_does_not_change_a_seeded_answer(
    thinker: Thinker, prepared: Prepare, answer: Ask
) -> None:
    """Each chunk samples a token that is thrown away. That must not advance the seed, nor disturb other requests."""
    long = Prepared([100 + 7 * i % 1900 for i in range(4500)])
    sampling = {"temperature": 1.0, "seed": 3, "max_tokens": 12}
    chunked = await collect(thinker, long.request("chunked", sampling=sampling, tenant="chunked"))
    whole = await collect(thinker, long.request("whole", sampling=sampling, tenant="chunked"))
    assert (chunked.done.cached_tokens, whole.done.cached_tokens > 4096) == (0, True)
    assert chunked.token_ids == whole.token_ids
    async with asyncio.TaskGroup() as group:
        together = group.create_task(collect(thinker, long.request("long", sampling=sampling, tenant="together")))
        short = group.create_task(
            collect(thinker, prepared("audio").request("short", sampling=sampling_of(SAMPLED[1]), tenant="together"))
        )
    assert together.result().token_ids == whole.token_ids
    assert short.result().token_ids == answer("audio", SAMPLED[1]).token_ids


async def test_an_audio_before_a_video_with_sound(thinker: Thinker, prepared: Prepare, oracle: Oracle) -> None:
    first, second = CASES["audio"], CASES["audio in video"]
    case = Case(
        [turn("user", AUDIO, text("What?")), turn("assistant", text("A tone.")), turn("user", VIDEO, text("And now?"))],
        type(first.media)(
            audios=[*first.media.audios, *second.media.audios],
            videos=second.media.videos,
            processor_kwargs=second.media.processor_kwargs,
        ),
        use_audio_in_video=True,
    )
    inputs = oracle.inputs(case.messages, case.media, use_audio_in_video=True)
    wanted = oracle.generate_from_inputs(
        inputs, voice=None, thinker=ThinkerOptions(max_new_tokens=TOKENS), use_audio_in_video=True
    )
    audio_start = oracle.config.thinker_config.audio_start_token_id
    ids = wanted.prompt_ids
    starts = [at for at, token in enumerate(ids) if token == audio_start]
    features: list[preprocess_pb2.Feature] = []
    for name, start in zip(("audio", "audio in video"), starts, strict=True):
        moved = start - prepared(name).prompt_token_ids.index(audio_start)
        for feature in prepared(name).features:
            there = preprocess_pb2.Feature()
            there.CopyFrom(feature)
            there.offset += moved
            features.append(there)
    got = await collect(thinker, Prepared(ids, features).request("mixed", sampling={"max_tokens": TOKENS}))
    assert got.token_ids == wanted.token_ids
