"""The parts that a GPU compiles give what eager code gives. Two traces serve all batches: one stream, and more.

Only the compiler's front end runs here, which all backends share; its kernels are for GPUs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo import reset
from torch._dynamo.utils import counters

from services.talker.checkpoint import SpeechModels
from services.talker.cuda_stream import CudaStream
from services.talker.fusion import FusedCall, linear, topk
from services.talker.layers import mlp
from services.talker.memory import plan_memory
from services.talker.noise import PhiloxNoise, exponential
from services.talker.sampling import SamplingParams
from services.talker.step_parts import StepParts

SLOTS = 6
BATCHES = (6, 2, 1)


@pytest.fixture(autouse=True, scope="module")
def without_kernels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
        yield
    reset()


def parts_of(models: SpeechModels) -> StepParts:
    parts = StepParts(models, plan_memory(models, 60_000_000, slots=SLOTS, max_frames=20))
    for slot in range(1, SLOTS + 1):
        parts.cache.assign(slot, [slot])
        parts.sampler.start(slot, SamplingParams(seed=slot, do_sample=slot != 2, top_p=0.9))
    return parts


@pytest.fixture(scope="module")
def plain_and_fused(speech_models: SpeechModels) -> tuple[StepParts, StepParts]:
    plain = parts_of(speech_models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpeechModels, "runs_captured", property(lambda _: True))
        # As on a GPU without a grouped matmul for the experts, which cannot be traced in float32.
        patch.setattr(mlp, "groups_on_device", lambda _: False)
        return plain, parts_of(speech_models)


def state(parts: StepParts) -> list[Tensor]:
    return [*parts.cache.state, *parts.sampler.state, parts.predictor.kv_cache, *parts.codec.state, parts.code_embeds]


def inputs(parts: StepParts, name: str, batch: int) -> tuple[tuple[Tensor, ...], dict[str, int]]:
    slots = torch.randperm(SLOTS)[:batch] + 1
    if name == "decode":
        lengths = torch.randint(0, 60, (batch,))
        return (slots, torch.randint(0, 100, (batch,)), lengths, lengths.float()), {"blocks": 1}
    if name == "draw_codes":
        noise = torch.rand(batch, sum(parts.noise_sizes)) + 0.01
        return (torch.randn(batch, parts.hidden_size), slots, noise), {"width": 64}
    codes = torch.randint(0, 100, (batch, len(parts.noise_sizes)))
    return (slots, torch.randint(1, 200, (batch,)), codes), {"num_past_frames": parts.settled_frames}


def assert_near(given: Tensor, expected: Tensor) -> None:
    """Assert equality up to float rounding, which the random state makes large."""
    if not expected.is_floating_point():
        assert torch.equal(given, expected)
    elif expected.numel():
        assert float((given - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("name", ["decode", "draw_codes", "decode_audio"])
def test_a_compiled_part_gives_the_same_outputs_and_state(
    plain_and_fused: tuple[StepParts, StepParts], name: str
) -> None:
    plain, fused = plain_and_fused
    counters.clear()
    for batch in BATCHES:
        with torch.inference_mode():
            for tensor in (plain.cache.kv, plain.predictor.kv_cache, *plain.codec.state, plain.code_embeds):
                tensor.normal_(std=0.1)
            for source, target in zip(state(plain), state(fused), strict=True):
                target.copy_(source)
            tensors, numbers = inputs(plain, name, batch)
            expected, given = (getattr(parts, f"_{name}")(*tensors, **numbers) for parts in (plain, fused))
            assert_near(given, expected)
            for source, target in zip(state(plain), state(fused), strict=True):
                assert_near(target[1:], source[1:])
    assert counters["stats"]["unique_graphs"] > 0


def test_compiled_noise_is_the_same() -> None:
    noise = PhiloxNoise(2, 3, torch.device("cpu"))
    compiled = PhiloxNoise(2, 3, torch.device("cpu"), cuda_stream=CudaStream(torch.device("cpu")))
    exponentials: FusedCall[Tensor] = FusedCall(lambda _, keys, ids: exponential(keys, ids), enabled=True)
    for slots in ([1, 2], [2], [3, 2, 1]):
        for slot in slots:
            noise.start(slot, 2**61 + slot)
            compiled.start(slot, 2**61 + slot)
        at = torch.tensor(slots)
        keys = noise.frame(at, slots)
        assert torch.equal(compiled.frame(at, slots), keys)
        ids = torch.randint(0, 2048, (len(slots), 64))
        assert torch.equal(exponentials(None, keys[:, 1], ids), exponential(keys[:, 1], ids))


def test_two_compilations_serve_every_batch_size() -> None:
    call = FusedCall(lambda _, inputs, weight: linear(inputs, weight) * 2, enabled=True)
    weight = torch.randn(7, 5)
    counters.clear()
    for batch in (9, 1, 4, 2, 1, 30):
        inputs = torch.randn(batch, 5)
        torch.testing.assert_close(call(None, inputs, weight=weight), inputs @ weight.T * 2)
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("shape", [(1, 2048), (5, 128), (5, 2048)])
def test_topk_equals_torchs(shape: tuple[int, int]) -> None:
    call: Callable[..., Any] = FusedCall(lambda _, scores: topk(scores, 50), enabled=True)
    scores = torch.randn(shape)
    scores[:, 7] = -torch.inf
    values, indices = call(None, scores)
    expected = scores.topk(50)
    assert torch.equal(values, expected.values)
    assert torch.equal(indices, expected.indices)


def test_nan_scores_are_ranked_too() -> None:
    call: Callable[..., Any] = FusedCall(lambda _, scores: topk(scores, 3), enabled=True)
    _, indices = call(None, torch.full((1, 128), torch.nan))
    assert sorted(indices[0].tolist()) == [0, 1, 2]


def test_equal_scores_rank_the_first_one_highest() -> None:
    call: Callable[..., Any] = FusedCall(lambda _, scores: topk(scores, 3), enabled=True)
    values, indices = call(None, torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0]]))
    assert values.tolist() == [[3, 3, 2]]
    assert indices.tolist() == [[1, 3, 2]]


def test_torchs_own_variables_set_pdl_and_coordinate_descent() -> None:
    asked = "from torch._inductor import config; print(config.triton.enable_pdl, config.coordinate_descent_tuning)"
    switches = {"TORCHINDUCTOR_ENABLE_PDL": "1", "TORCHINDUCTOR_COORDINATE_DESCENT_TUNING": "1"}
    done = subprocess.run(
        [sys.executable, "-c", asked], env=os.environ | switches, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True True"
