"""Draws equal transformers' processors and torch.multinomial."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from services.common.errors import BadInput
from services.talker.noise import GeneratorNoise
from services.talker.sampling import TIES, CodeSampler, SamplingParams, draw

VOCABULARY = 300
SUPPRESSED = torch.arange(VOCABULARY) >= 200


class Stream:
    """Draws code 0s for one request, in slot 1 or another."""

    def __init__(self, params: SamplingParams, sampler: CodeSampler | None = None, slot: int = 1) -> None:
        self.params, self.slot = params, slot
        self.noise = GeneratorNoise([VOCABULARY])
        self.sampler = sampler or CodeSampler(1, SUPPRESSED)
        self.sampler.start(slot, params)
        self.noise.start(slot, params.seed if params.do_sample else None)

    def draw(self, logits: Tensor) -> int:
        at = torch.tensor([self.slot])
        noise = self.noise.frame(at, [self.slot] if self.params.do_sample else [])
        width = min(self.params.candidates(VOCABULARY) + TIES, VOCABULARY)
        return int(self.sampler.draw_first(logits[None], at, noise, width=width)[0])


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"), [(40, 0.9, 0.8), (0, 0.7, 1.3), (5000, 1.0, 1.0), (3, 0.2, 0.5)]
)
def test_draws_equal_transformers_with_the_same_seed(top_k: int, top_p: float, temperature: float) -> None:
    params = SamplingParams(seed=11, temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=1.2)
    theirs = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.2),
            SuppressTokensLogitsProcessor(cast(Any, list(range(200, VOCABULARY)))),
            TemperatureLogitsWarper(temperature),
            *([TopKLogitsWarper(top_k)] if top_k else []),
            TopPLogitsWarper(top_p),
        ]
    )
    logits = torch.randn(60, VOCABULARY, generator=torch.Generator().manual_seed(3)) * 3
    torch.manual_seed(11)
    expected: list[int] = []
    for row in logits:
        scores = theirs(cast(Any, torch.tensor([expected], dtype=torch.int64)), cast(Any, row[None].clone()))
        expected.append(int(torch.multinomial(scores.softmax(-1), 1)))
    stream = Stream(params)
    assert [stream.draw(row) for row in logits] == expected
    assert len(set(expected)) > 10


def test_a_draw_does_not_depend_on_the_batch() -> None:
    settings = [SamplingParams(seed=1), SamplingParams(seed=2, do_sample=False), SamplingParams(seed=3, top_k=0)]
    alone = [Stream(params) for params in settings]
    sampler, noise = CodeSampler(3, SUPPRESSED), GeneratorNoise([VOCABULARY])
    for slot, params in enumerate(settings, start=1):
        sampler.start(slot, params)
        noise.start(slot, params.seed if params.do_sample else None)
    slots = torch.tensor([1, 2, 3])
    logits = torch.randn(20, 3, VOCABULARY, generator=torch.Generator().manual_seed(4))
    for scores in logits:
        expected = [stream.draw(row) for stream, row in zip(alone, scores, strict=True)]
        assert sampler.draw_first(scores, slots, noise.frame(slots, [1, 3]), width=VOCABULARY).tolist() == expected


def test_a_greedy_request_takes_the_best_and_draws_no_noise() -> None:
    stream = Stream(SamplingParams(seed=1, do_sample=False, repetition_penalty=1.0, temperature=0.1, top_k=7))
    logits = torch.randn(30, VOCABULARY, generator=torch.Generator().manual_seed(8))
    assert [stream.draw(row) for row in logits] == logits[:, :200].argmax(-1).tolist()


def test_marked_codes_are_penalised_like_drawn_ones() -> None:
    logits = torch.randn(40, VOCABULARY, generator=torch.Generator().manual_seed(5)) * 2
    params = SamplingParams(seed=9, repetition_penalty=1.8)
    drawn, marked = Stream(params), Stream(params)
    codes = [drawn.draw(row) for row in logits[:20]]
    marked.sampler.mark(1, torch.tensor(codes))
    marked.noise.skip(1, 20)
    assert [drawn.draw(row) for row in logits[20:]] == [marked.draw(row) for row in logits[20:]]


def test_a_new_request_in_a_slot_inherits_nothing() -> None:
    logits = torch.randn(20, VOCABULARY, generator=torch.Generator().manual_seed(6))
    used = CodeSampler(1, SUPPRESSED)
    before = Stream(SamplingParams(seed=1, repetition_penalty=1.9), used)
    for row in logits:
        before.draw(row)
    params = SamplingParams(seed=4)
    second, fresh = Stream(params, used), Stream(params)
    assert [second.draw(row) for row in logits] == [fresh.draw(row) for row in logits]


@pytest.mark.parametrize("top_k", [1, 5, 50])
def test_ties_with_the_last_of_the_top_k_stay_in(top_k: int) -> None:
    """Some of the logits tie once they are rounded to bfloat16."""
    scores = (torch.randn(400, VOCABULARY, generator=torch.Generator().manual_seed(9)) * 2).bfloat16().float()
    theirs = TopKLogitsWarper(top_k)(cast(Any, None), cast(Any, scores.clone()))
    selected = theirs > -torch.inf
    assert int((selected.sum(-1) > top_k).sum()) > 5
    assert int(selected.sum(-1).max()) <= top_k + TIES
    generator = torch.Generator().manual_seed(10)
    for _ in range(20):
        noise = torch.empty_like(scores).exponential_(generator=generator)
        expected = (theirs.softmax(-1) / noise).argmax(-1)
        for last_rank in (top_k - 1, torch.full((400, 1), top_k - 1)):
            assert torch.equal(draw(scores, noise, last_rank, 0.0, width=top_k + TIES), expected)


@pytest.mark.parametrize("top_p", [0.8, 1.0])
def test_a_draw_without_noise_takes_the_best_whatever_the_top_k(top_p: float) -> None:
    scores = torch.randn(400, VOCABULARY, generator=torch.Generator().manual_seed(12)) * 2
    for last_rank in (0, 49):
        drawn = draw(scores, torch.ones_like(scores), last_rank, 1 - top_p, width=50 + TIES)
        assert torch.equal(drawn, scores.argmax(-1))


def test_a_greedy_request_breaks_ties_the_same_way_in_any_slot() -> None:
    noise, sampler = GeneratorNoise([VOCABULARY]), CodeSampler(2, SUPPRESSED)
    for slot, params in ((1, SamplingParams(seed=1)), (2, SamplingParams(seed=2, do_sample=False))):
        sampler.start(slot, params)
        noise.start(slot, params.seed if params.do_sample else None)
    logits = torch.zeros(1, VOCABULARY)
    greedy = torch.tensor([2])
    first = sampler.draw_first(logits, greedy, noise.frame(greedy, []), width=VOCABULARY)
    noise.frame(torch.tensor([1]), [1])
    sampler.penalty_mask.zero_()
    assert torch.equal(sampler.draw_first(logits, greedy, noise.frame(greedy, []), width=VOCABULARY), first)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", 10.5),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 10.5),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(name: str, value: float) -> None:
    with pytest.raises(BadInput) as refused:
        SamplingParams(seed=0, **cast(Any, {name: value}))
    assert refused.value.param == f"talker.{name}"
