"""The replay of a seed's draws. `--device cuda` runs it on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

from services.thinker.engine.draws import replay_draws

VOCAB = 152_064  # of the released checkpoint: on a GPU it decides how far one draw moves the generator


@pytest.mark.parametrize("fp64", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("others", [0, 3], ids=["alone", "with others"])
def test_a_replay_leaves_a_generator_as_the_sampler_does(fp64: bool, others: int, device: torch.device) -> None:
    sampler: Any = TopKTopPSampler(use_fp64_gumbel=fp64)
    # Of vLLM's paths only these take a generator that draws a row of noise; a GPU always takes one of them.
    sample = sampler.forward if fp64 or device.type == "cuda" else sampler.forward_native
    logits = torch.randn(others + 1, VOCAB, device=device)
    sampled, replayed = (torch.Generator(device).manual_seed(7) for _ in range(2))
    for draws in range(4):
        assert torch.equal(replayed.get_state(), sampled.get_state()), draws
        sample(logits.clone(), {others: sampled}, None, None)
        replayed.manual_seed(7)
        replay_draws(replayed, draws + 1, VOCAB, use_fp64_gumbel=fp64)
    first, second = (
        sample(logits.clone(), {others: generator}, None, None)[0][others] for generator in (sampled, replayed)
    )
    assert first == second
