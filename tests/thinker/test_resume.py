"""An answer that goes on after another worker's tokens is the one that was never interrupted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY

from services.thinker.service import Thinker
from tests.fixtures.oracle import Oracle
from tests.thinker.collect import Collected, collect
from tests.thinker.conftest import Prepare
from tests.thinker.prepared import Prepared

pytestmark = pytest.mark.asyncio(loop_scope="session")
TOKENS = 24
CUTS = (1, 2, 9, 16, TOKENS - 1)
SEEDED = {"temperature": 1.0, "seed": 5}
# They contradict each other, so that a token is likelier or not by how often it came, and whether in the prompt.
PENALTIES = {"presence_penalty": -1.5, "frequency_penalty": 0.3, "repetition_penalty": 1.1}
FEW = {"temperature": 0.7, "top_k": 4}

PARAMETERS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.6},
    "repetition": {"repetition_penalty": 1.2},
    "penalties": PENALTIES,
    "rewards": {"presence_penalty": -1.0, "frequency_penalty": -0.3},
    "logit bias": {"logit_bias": dict.fromkeys(range(0, 1000, 3), -2.0), "presence_penalty": 0.5},
    "seeded": SEEDED,
    "seeded, masks": SEEDED | {"top_k": 40, "top_p": 0.9, "min_p": 0.01},
    "seeded, presence": SEEDED | FEW | {"presence_penalty": -1.5},
    "seeded, penalties": SEEDED | FEW | PENALTIES,
}


async def resumed(thinker: Thinker, prompt: Prepared, cut: int, whole: Collected, **sampling: object) -> Collected:
    """Return the rest of `whole` after `cut` tokens, as a worker generates it that has none of them."""
    request = prompt.request(
        f"after-{cut}", sampling=sampling, generated_token_ids=whole.token_ids[:cut], tenant=f"resumed-{cut}"
    )
    return await collect(thinker, request)


async def resumed_at(
    cuts: tuple[int, ...], thinker: Thinker, prompt: Prepared, whole: Collected, **sampling: object
) -> dict[int, Collected]:
    """Resume after each of `cuts`, all in one batch."""
    async with asyncio.TaskGroup() as group:
        turns = {cut: group.create_task(resumed(thinker, prompt, cut, whole, **sampling)) for cut in cuts}
    return {cut: turn.result() for cut, turn in turns.items()}


@pytest.mark.parametrize("name", PARAMETERS)
async def test_every_parameter_goes_on_as_if_nothing_had_happened(
    name: str, thinker: Thinker, prepared: Prepare
) -> None:
    sampling = {"max_tokens": TOKENS, "ignore_eos": True, **PARAMETERS[name]}
    whole = await collect(thinker, prepared("text").request("whole", sampling=sampling))
    for cut, rest in (await resumed_at(CUTS, thinker, prepared("text"), whole, **sampling)).items():
        assert rest.token_ids == whole.token_ids[cut:], cut
        assert rest.done.completion_tokens == TOKENS


@pytest.mark.parametrize("name", ["text", "image, audio and video", "audio in video"])
async def test_every_modality_goes_on_as_if_nothing_had_happened(
    name: str, thinker: Thinker, prepared: Prepare
) -> None:
    prompt = prepared(name)
    sampling = {"max_tokens": TOKENS, "ignore_eos": True}
    whole = await collect(thinker, prompt.request("whole", sampling=sampling))
    for cut, rest in (await resumed_at((1, 7, TOKENS - 1), thinker, prompt, whole, **sampling)).items():
        assert rest.token_ids == whole.token_ids[cut:]
        assert whole.content.endswith(rest.content)
        assert (rest.done.completion_tokens, rest.done.finish_reason) == (TOKENS, whole.done.finish_reason)
        assert rest.done.cached_tokens <= len(prompt.prompt_token_ids)


async def test_min_tokens_counts_the_earlier_tokens(thinker: Thinker, prepared: Prepare, oracle: Oracle) -> None:
    """The end token is by far the likeliest: only min_tokens holds it back, and it comes right after them."""
    end = oracle.config.im_end_token_id
    sampling = {"max_tokens": TOKENS, "min_tokens": 12, "logit_bias": {end: 100.0}, **PENALTIES}
    whole = await collect(thinker, prepared("text").request("whole", sampling=sampling))
    assert whole.token_ids.index(end) == 12
    for cut, rest in (await resumed_at((1, 5, 7, 11, 12), thinker, prepared("text"), whole, **sampling)).items():
        assert rest.token_ids == whole.token_ids[cut:], cut
        assert rest.done == whole.done.__class__(
            finish_reason=whole.done.finish_reason,
            completion_tokens=13,
            first_token_ms=rest.done.first_token_ms,
            cached_tokens=rest.done.cached_tokens,
        )


async def test_a_stop_string_may_begin_before_the_cut(thinker: Thinker, prepared: Prepare) -> None:
    sampling: dict[str, Any] = {"max_tokens": TOKENS, "ignore_eos": True, **SEEDED, **PENALTIES}
    free = await collect(thinker, prepared("text").request("free", sampling=sampling))
    sampling |= {"stop": [free.content[14:30]], "max_tokens": 400}
    # Number of tokens → the text until there. The engine may give several tokens at once.
    texts: dict[int, str] = {}
    whole = Collected()
    async for event in thinker.generator.run(prepared("text").request("whole", sampling=sampling)):
        whole.add(event)
        texts[len(whole.token_ids)] = whole.content
    assert whole.content == free.content[: free.content.index(free.content[14:30])]
    cuts = tuple(cut for cut in texts if 0 < cut < len(whole.token_ids))
    assert sum(text == whole.content for text in texts.values()) > 2  # the stop string takes several tokens
    for cut, rest in (await resumed_at(cuts, thinker, prepared("text"), whole, **sampling)).items():
        assert rest.token_ids == whole.token_ids[cut:], cut
        assert texts[cut] + rest.content == whole.content
        assert rest.done.stop_string == whole.done.stop_string
        assert rest.done.completion_tokens == whole.done.completion_tokens


async def test_an_answer_may_move_several_times(thinker: Thinker, prepared: Prepare) -> None:
    sampling = {"max_tokens": TOKENS, "ignore_eos": True, **SEEDED, **PENALTIES}
    whole = await collect(thinker, prepared("text").request("whole", sampling=sampling))
    taken: list[int] = []
    for cut in (3, 4, 11, TOKENS):
        request = prepared("text").request(f"to-{cut}", sampling=sampling, generated_token_ids=taken)
        taken += (await collect(thinker, request)).token_ids[: cut - len(taken)]
    assert taken == whole.token_ids


async def test_a_chunk_of_the_prefill_may_end_among_the_earlier_tokens(thinker: Thinker) -> None:
    prompt = Prepared([100 + 7 * i % 1900 for i in range(4092)])  # a step takes 4096 tokens
    sampling = {"max_tokens": TOKENS, "ignore_eos": True, **SEEDED, **PENALTIES}
    whole = await collect(thinker, prompt.request("whole", sampling=sampling))
    rest = await resumed(thinker, prompt, 9, whole, **sampling)
    assert rest.token_ids == whole.token_ids[9:]


async def test_a_resumed_answer_may_be_preempted(thinker: Thinker) -> None:
    def preemptions() -> float:
        return REGISTRY.get_sample_value("antiphon_thinker_preemptions_total") or 0.0

    prompts = [Prepared([50 + (11 * i + 3 * n) % 1900 for i in range(600)]) for n in range(8)]
    sampling = {"max_tokens": 200, "ignore_eos": True, **SEEDED, **PENALTIES}
    wholes = [await collect(thinker, prompt.request("whole", sampling=sampling)) for prompt in prompts]
    before = preemptions()
    async with asyncio.TaskGroup() as group:
        together = [
            group.create_task(resumed(thinker, prompt, 20 + n, whole, **sampling))
            for n, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True))
        ]
    assert preemptions() > before
    for n, (turn, whole) in enumerate(zip(together, wholes, strict=True)):
        assert turn.result().token_ids == whole.token_ids[20 + n :]


async def test_an_answer_that_is_complete_is_only_ended(thinker: Thinker, prepared: Prepare) -> None:
    sampling = {"max_tokens": 5, "ignore_eos": True}
    whole = await collect(thinker, prepared("text").request("whole", sampling=sampling))
    rest = await resumed(thinker, prepared("text"), 5, whole, **sampling)
    assert rest.kinds == ["done"]
    assert (rest.done.finish_reason, rest.done.completion_tokens) == (whole.done.finish_reason, 5)
