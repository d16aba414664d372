"""Sampling fields: errors use OpenAI's names, defaults come from the checkpoint, limits count the whole answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from antiphon.v1 import thinker_pb2
from services.common.errors import BadInput, ContextTooLong
from services.common.model_card import read_model_card
from services.thinker.checkpoint import Checkpoint
from services.thinker.sampling import SamplingDefaults, sampling_params


def defaults_of(folder: Path) -> SamplingDefaults:
    return SamplingDefaults(Checkpoint(folder, read_model_card(folder, "tiny", "auto", 4096)), default_max_tokens=512)


@pytest.fixture(scope="module")
def defaults(tiny_instruct: Path) -> SamplingDefaults:
    return defaults_of(tiny_instruct)


def params_of(defaults: SamplingDefaults, prompt_tokens: int = 10, earlier_tokens: int = 0, **asked: Any) -> Any:
    sampling = thinker_pb2.ThinkerSampling(**asked)
    return sampling_params(sampling, defaults, prompt_tokens=prompt_tokens, earlier_tokens=earlier_tokens)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 1.5),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("frequency_penalty", math.inf),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("max_tokens", 0),
        ("min_tokens", 513),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("stop", ["x" * 257]),
        ("stop_token_ids", [2304]),
        ("stop_token_ids", [1] * 65),
        ("logit_bias", {2304: 1.0}),
        ("logit_bias", {1: 101.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", dict.fromkeys(range(1025), 1.0)),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(defaults: SamplingDefaults, field: str, value: Any) -> None:
    with pytest.raises(BadInput) as refused:
        params_of(defaults, **{field: value})
    assert refused.value.param == field
    assert field in refused.value.message


def test_min_tokens_may_not_exceed_max_tokens(defaults: SamplingDefaults) -> None:
    with pytest.raises(BadInput) as refused:
        params_of(defaults, max_tokens=4, min_tokens=5)
    assert refused.value.param == "min_tokens"


def test_prompt_and_answer_may_not_exceed_the_models_length(defaults: SamplingDefaults) -> None:
    assert params_of(defaults, prompt_tokens=4000, max_tokens=96).max_tokens == 96
    with pytest.raises(ContextTooLong) as refused:
        params_of(defaults, prompt_tokens=4000, max_tokens=97)
    assert refused.value.param == "max_tokens"
    assert "4096" in refused.value.message


def test_max_tokens_defaults_to_what_is_left(defaults: SamplingDefaults) -> None:
    assert params_of(defaults, prompt_tokens=10).max_tokens == 512
    assert params_of(defaults, prompt_tokens=4090).max_tokens == 6


def test_instruct_is_greedy_as_its_generation_config_says(defaults: SamplingDefaults) -> None:
    assert params_of(defaults).temperature == 0
    assert params_of(defaults, temperature=0.7).temperature == 0.7


def test_thinking_samples_as_its_generation_config_says(tiny_thinking: Path) -> None:
    params = params_of(defaults_of(tiny_thinking))
    assert (params.temperature, params.top_p, params.top_k) == (0.6, 0.95, 20)
    params = params_of(defaults_of(tiny_thinking), top_k=0, top_p=1.0)
    assert (params.temperature, params.top_p, params.top_k) == (0.6, 1.0, 0)


def test_a_proto_float_keeps_its_decimal_value(defaults: SamplingDefaults) -> None:
    params = params_of(defaults, temperature=0.9, top_p=0.95)
    assert (params.temperature, params.top_p) == (0.9, 0.95)


def test_a_negative_seed_is_accepted(defaults: SamplingDefaults) -> None:
    assert params_of(defaults, temperature=1.0, seed=-1).seed == 2**64 - 1


def test_a_resumed_answer_counts_its_earlier_tokens(defaults: SamplingDefaults) -> None:
    params = params_of(defaults, earlier_tokens=3, max_tokens=10, min_tokens=5)
    assert (params.max_tokens, params.min_tokens) == (7, 2)
    params = params_of(defaults, earlier_tokens=6, max_tokens=10, min_tokens=5)
    assert (params.max_tokens, params.min_tokens) == (4, 0)
