"""The draws of a request with a seed."""

from __future__ import annotations

import torch
from vllm.v1.sample.ops.topk_topp_sampler import empty_exponential_noise_like


def replay_draws(generator: torch.Generator, draws: int, vocab_size: int, *, use_fp64_gumbel: bool) -> None:
    """Leave `generator` as vLLM's sampler leaves it after `draws` tokens.

    The sampler draws one row of noise a token, [vocab_size], on the generator's device; so does this, once more. It
    does not compute a generator's state: that depends on how the device splits a row over its threads. For the same
    reason a seed gives the same draws only on the same kind of device.
    """
    probs = torch.empty(1, vocab_size, dtype=torch.float32, device=generator.device)
    noise = empty_exponential_noise_like(probs, use_fp64_gumbel)
    for _ in range(draws):
        noise[0].exponential_(generator=generator)
