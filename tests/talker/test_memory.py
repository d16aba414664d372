"""The memory plan: it counts before it allocates, and refuses with numbers what does not fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from services.common.talker_memory import (
    MAX_SLOTS,
    RELEASED_COSTS,
    RELEASED_MAX_TOKENS,
    RELEASED_WEIGHTS,
    padded_batch,
    plan_streams,
)
from services.talker.checkpoint import SpeechModels
from services.talker.cuda_graphs import BATCHES, rounded_up
from services.talker.engine import SpeechEngine
from services.talker.kv_cache import BLOCK_SIZE
from services.talker.memory import (
    CPU_SLOTS,
    DoesNotFitError,
    budget_bytes,
    plan_memory,
    state_bytes_per_slot,
)
from services.talker.speaker import Speaker
from tests.talker.released import SIZES, random_models

MB = 1_000_000


def test_a_larger_budget_gives_more_slots(speech_models: SpeechModels) -> None:
    plans = [plan_memory(speech_models, megabytes * MB, slots=500, max_frames=200) for megabytes in (20, 40, 80)]
    slots = [plan.slots for plan in plans]
    assert 0 < slots[0] < slots[1] < slots[2]
    for plan, megabytes in zip(plans, (20, 40, 80), strict=True):
        assert plan.bytes <= megabytes * MB


def test_the_plan_equals_what_is_allocated(speech_models: SpeechModels) -> None:
    plan = plan_memory(speech_models, 30 * MB, slots=6, max_frames=200)
    state_bytes = Speaker(speech_models, plan).state_bytes
    # The plan counts the sampler, the predictor's cache and the noise besides.
    assert 0.6 * plan.bytes < state_bytes <= plan.bytes


def test_a_cpu_takes_a_few_streams_by_default(speech_models: SpeechModels) -> None:
    budget = budget_bytes(speech_models)
    assert plan_memory(speech_models, budget).slots == CPU_SLOTS
    assert plan_memory(speech_models, budget, slots=3).slots == 3


def test_a_budget_below_one_stream_is_refused_with_the_numbers(speech_models: SpeechModels) -> None:
    with pytest.raises(DoesNotFitError, match=r"a stream of 4607 tokens takes \d+ MB, but 1 MB are left"):
        plan_memory(speech_models, MB)


def test_a_stream_fits_the_models_positions(speech_models: SpeechModels) -> None:
    config = dataclasses.replace(speech_models.config, max_positions=2 * BLOCK_SIZE)
    plan = plan_memory(dataclasses.replace(speech_models, config=config), 30 * MB, slots=5)
    assert plan.num_blocks == 5 * 2


def test_an_engine_has_the_slots_of_its_plan(speech_models: SpeechModels) -> None:
    plan = plan_memory(speech_models, 30 * MB, slots=5, max_frames=100)
    assert SpeechEngine(speech_models, memory=plan).slots == plan.slots == 5


def test_on_a_gpu_the_largest_step_does_not_depend_on_stream_length(
    speech_models: SpeechModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reads blocks in place."""
    monkeypatch.setattr(SpeechModels, "device", torch.device("cuda"))
    short, long = (plan_memory(speech_models, 800 * MB, slots=9, max_frames=frames) for frames in (40, 4000))
    assert short.num_blocks < long.num_blocks
    assert short.step_bytes == long.step_bytes > 9 * 5_000_000


def test_the_sizes_plan_with_the_costs_of_the_released_models(monkeypatch: pytest.MonkeyPatch) -> None:
    models = random_models(SIZES["released"], torch.device("meta"), torch.bfloat16)
    monkeypatch.setattr(SpeechModels, "device", torch.device("cuda"))
    assert models.bytes == RELEASED_WEIGHTS
    assert models.config.max_positions == RELEASED_MAX_TOKENS
    for gigabytes in (1, 7, 28, 68, 130):
        ours = plan_memory(models, gigabytes * 1000 * MB)
        theirs = plan_streams(
            RELEASED_COSTS, gigabytes * 1000 * MB, max_slots=MAX_SLOTS, max_tokens=RELEASED_MAX_TOKENS
        )
        assert (ours.slots, ours.num_blocks, ours.bytes) == (theirs.slots, theirs.num_blocks, theirs.bytes)
    assert state_bytes_per_slot(models) == RELEASED_COSTS.state


def test_steps_are_padded_to_a_captured_batch_size() -> None:
    assert BATCHES[-1] == MAX_SLOTS
    for count in range(1, MAX_SLOTS + 1):
        assert padded_batch(count) == rounded_up(count, BATCHES, BATCHES[-1])


@pytest.mark.parametrize(
    ("total_gib", "others_gib", "fraction", "left_gib"),
    [
        (17.6, 0.5, 0.9, 7.9),  # 1g.20gb of an A100 or H100 80GB
        (15.84, 0.5, 0.9, 6.3),  # 1g.18gb of an H200
        (79.65, 0.5, 0.9, 63.8),  # a whole H100 80GB
        (79.65, 69.6, 0.11, 0.8),  # beside a thinker
    ],
)
def test_torchs_cache_is_freed_before_the_budget_is_taken(
    total_gib: float, others_gib: float, fraction: float, left_gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib, weights_gib = 1 << 30, 7.17
    cached_gib = 7.5  # the small blocks of 7,680 expert matrices
    monkeypatch.setattr(SpeechModels, "device", torch.device("cuda:0"))

    def empty_cache() -> None:
        nonlocal cached_gib
        cached_gib = 0

    def reserved_gib() -> float:
        return weights_gib + cached_gib

    def mem_get_info(device: object) -> tuple[int, int]:
        return int((total_gib - others_gib - reserved_gib()) * gib), int(total_gib * gib)

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: int(reserved_gib() * gib))
    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    models = random_models(SIZES["many experts"], torch.device("meta"), torch.bfloat16)
    assert budget_bytes(models, memory_fraction=fraction) / gib == pytest.approx(left_gib, abs=0.1)
    others_gib = total_gib - weights_gib - 1
    with pytest.raises(DoesNotFitError, match="others use"):
        budget_bytes(models, memory_fraction=0.9)
