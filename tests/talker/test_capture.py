"""A CUDA graph needs steps of fixed shapes that read no tensor's value on the host.

Fake tensors have shapes and no values: reading a value raises. The tests run the step's three parts on them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from services.talker.checkpoint import SpeechModels, load_speech_models
from services.talker.cuda_graphs import BATCHES, GraphedCall, rounded_up
from services.talker.kv_cache import BLOCK_SIZE
from services.talker.memory import plan_memory
from services.talker.noise import PhiloxNoise
from services.talker.speaker import Speaker
from services.talker.step_parts import Captured

BATCH = 4


@pytest.fixture(scope="module")
def models(tiny_instruct: Path) -> SpeechModels:
    """Return models as on a GPU, in bfloat16: the experts' grouped matmul cannot be captured in float32."""
    return load_speech_models(tiny_instruct, dtype="bfloat16")


@pytest.fixture(scope="module")
def speaker(models: SpeechModels) -> Speaker:
    return Speaker(models, plan_memory(models, 60_000_000, slots=8, max_frames=100))


def shapes_of(function: Captured, *inputs: torch.Tensor, **numbers: int) -> tuple[int, ...]:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        return tuple(function(*inputs, **numbers).shape)


def test_no_part_of_a_step_reads_a_value_on_the_host(speaker: Speaker, models: SpeechModels) -> None:
    ids, config = torch.zeros(BATCH, dtype=torch.int64), models.config
    hidden = shapes_of(speaker.parts.decode, ids, ids, ids, ids.float(), blocks=8)
    assert hidden == (BATCH, speaker.parts.hidden_size)
    sizes = speaker.parts.noise_sizes
    codes = shapes_of(
        speaker.parts.draw_codes,
        torch.zeros(hidden, dtype=torch.bfloat16),
        ids,
        torch.ones(BATCH, sum(sizes)),
        width=64,
    )
    assert codes == (BATCH, config.codebooks)
    frames = torch.zeros(codes, dtype=torch.int64)
    assert shapes_of(speaker.parts.decode_audio, ids, ids, frames, num_past_frames=0) == (BATCH, 1365)
    assert shapes_of(speaker.parts.decode_audio, ids, ids, frames, num_past_frames=1) == (BATCH, 1920)
    philox = PhiloxNoise(len(sizes), 8, torch.device("cpu"))
    keys = shapes_of(philox.next_frame, ids)
    assert keys == (BATCH, len(sizes), 2)
    noise = torch.zeros(keys, dtype=torch.int64)
    given = torch.zeros(hidden, dtype=torch.bfloat16)
    assert shapes_of(speaker.parts.draw_codes, given, ids, noise, width=64) == codes


def test_fake_tensors_refuse_to_give_a_value() -> None:
    with pytest.raises(DynamicOutputShapeException):
        shapes_of(GraphedCall(lambda x: x[x > 0], None), torch.ones(3))


def test_a_part_run_on_zeros_touches_no_streams_state(speaker: Speaker) -> None:
    """A capture runs the part on zeros while streams are live."""
    parts = speaker.parts
    first, *others = parts.codec.state
    state = [parts.cache.kv[:, BLOCK_SIZE:], first[:, 1:]]
    state += [tensor[1:] for tensor in (*others, parts.code_embeds, parts.sampler.penalty_mask)]
    before = [tensor.clone() for tensor in state]
    ids = torch.zeros(BATCH, dtype=torch.int64)
    with torch.inference_mode():
        parts.decode(ids, ids, ids, ids.float(), blocks=2)
        noise = torch.ones(BATCH, sum(parts.noise_sizes))
        codes = parts.draw_codes(torch.randn(BATCH, parts.hidden_size, dtype=torch.bfloat16), ids, noise, width=64)
        for num_past_frames in (0, 1):
            parts.decode_audio(ids, ids, codes, num_past_frames=num_past_frames)
    for tensor, then in zip(state, before, strict=True):
        assert torch.equal(tensor, then)


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (3, 4), (5, 8), (257, 512), (512, 512)])
def test_batches_are_padded_to_a_captured_size(count: int, expected: int) -> None:
    assert rounded_up(count, BATCHES, BATCHES[-1]) == expected
