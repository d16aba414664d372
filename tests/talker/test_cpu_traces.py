"""The traced parts of a step give the same bits as eager code, in outputs and state, from any earlier state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from services.talker import cpu_traces
from services.talker.checkpoint import SpeechModels
from services.talker.cpu_traces import TracedCall
from services.talker.memory import budget_bytes, plan_memory
from services.talker.sampling import SamplingParams
from services.talker.step_parts import StepParts

SLOTS = 5


@pytest.fixture(scope="module")
def parts(speech_models: SpeechModels) -> StepParts:
    parts = StepParts(speech_models, plan_memory(speech_models, budget_bytes(speech_models), slots=SLOTS))
    for slot in range(1, SLOTS + 1):
        parts.cache.assign(slot, [2 * slot - 1, 2 * slot])
        parts.sampler.start(slot, SamplingParams(seed=slot, do_sample=slot != 2, top_p=0.9))
    return parts


def state(parts: StepParts) -> list[Tensor]:
    return [*parts.cache.state, *parts.sampler.state, parts.predictor.kv_cache, *parts.codec.state, parts.code_embeds]


def scramble(parts: StepParts) -> None:
    """Overwrite the state, so that it differs from what the trace saw and from what the last call left."""
    for tensor in (parts.cache.kv, parts.predictor.kv_cache, *parts.codec.state, parts.code_embeds):
        tensor.normal_()
    parts.sampler.penalty_mask.bernoulli_(0.3)


def inputs(parts: StepParts, name: str, batch: int) -> tuple[TracedCall, tuple[Tensor, ...], dict[str, int]]:
    slots = torch.randperm(SLOTS)[:batch] + 1
    call: Any = getattr(parts, name)
    if name == "decode":
        lengths = torch.randint(0, 100, (batch,))
        return call, (slots, torch.randint(0, 100, (batch,)), lengths, lengths.float()), {"blocks": 2}
    if name == "draw_codes":
        noise = torch.rand(batch, sum(parts.noise_sizes)) + 0.01
        return call, (torch.randn(batch, parts.hidden_size), slots, noise), {"width": 64}
    codes = torch.randint(0, 100, (batch, len(parts.noise_sizes)))
    return call, (slots, torch.randint(1, 200, (batch,)), codes), {"num_past_frames": parts.settled_frames}


def trace_at_once(monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """Trace each shape in its use after the first `after` ones."""
    monkeypatch.setattr(cpu_traces, "_USES_BEFORE", after)
    monkeypatch.setattr(cpu_traces, "_USES_AT_MOST", after)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["decode", "draw_codes", "decode_audio"])
def test_a_trace_gives_the_same_bits_in_outputs_and_state(
    parts: StepParts, monkeypatch: pytest.MonkeyPatch, name: str, batch: int
) -> None:
    untraced: Callable[..., Tensor] = getattr(parts, f"_{name}")
    trace_at_once(monkeypatch)
    with torch.inference_mode():
        call, tensors, numbers = inputs(parts, name, batch)
        call(*tensors, **numbers)  # traced: which leaves its marks in scratch
        for _ in range(3):
            call, tensors, numbers = inputs(parts, name, batch)
            scramble(parts)
            before = [tensor.clone() for tensor in state(parts)]
            expected = untraced(*tensors, **numbers)
            expected_state = [tensor.clone() for tensor in state(parts)]
            assert not all(map(torch.equal, expected_state, before))
            for tensor, content in zip(state(parts), before, strict=True):
                tensor.copy_(content)
            assert torch.equal(call(*tensors, **numbers), expected)
            assert all(map(torch.equal, state(parts), expected_state))


def test_a_trace_reads_state_that_others_change(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_at_once(monkeypatch)
    table = torch.zeros(2)
    call = TracedCall(lambda batch: batch + table * 2, [table])
    for value in (1.0, 5.0):
        table.fill_(value)
        assert torch.equal(call(torch.ones(2)), torch.full((2,), 1 + 2 * value))


def test_a_frequent_shape_is_traced_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_at_once(monkeypatch, after=3)
    monkeypatch.setattr(cpu_traces, "_MOST", 1)
    runs: list[int] = []

    def double(batch: Tensor) -> Tensor:
        runs.append(len(batch))
        return batch * 2

    call = TracedCall(double, [])
    for _ in range(6):
        assert torch.equal(call(torch.ones(2)), torch.full((2,), 2.0))
        assert torch.equal(call(torch.ones(3)), torch.full((3,), 2.0))
    assert runs.count(2) == 4  # three eager runs, one while tracing
    assert runs.count(3) == 6


def test_a_shape_waits_for_an_idle_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_traces, "_USES_BEFORE", 3)
    monkeypatch.setattr(cpu_traces, "_USES_AT_MOST", 6)
    runs: list[int] = []

    def double(batch: Tensor) -> Tensor:
        runs.append(len(batch))
        return batch * 2

    call = TracedCall(double, [])
    for number in range(1, 6):
        assert torch.equal(call(torch.ones(2)), torch.full((2,), 2.0))
        assert call.has_untraced == (number > 3)
    assert len(runs) == 5
    call.trace_one()
    assert not call.has_untraced
    assert torch.equal(call(torch.ones(2)), torch.full((2,), 2.0))
    assert len(runs) == 6  # the one while tracing
    for _ in range(8):  # where no moment is idle, the trace comes in the seventh use
        assert torch.equal(call(torch.ones(3)), torch.full((3,), 2.0))
    assert runs.count(3) == 7


def test_a_wide_shape_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_at_once(monkeypatch)
    runs: list[int] = []
    call = TracedCall(lambda batch: batch * len(runs), [])
    for count in range(3):
        runs.append(count)
        assert torch.equal(call(torch.ones(17)), torch.full((17,), float(len(runs))))
