"""First short answers, so that no user waits for what vLLM and torch do at first use."""

from __future__ import annotations

import logging
import time
from contextlib import aclosing

from vllm.inputs import EngineInput
from vllm.sampling_params import SamplingParams

from services.thinker.checkpoint import Checkpoint
from services.thinker.engine.engine import Engine

# Of the step whose time bounds longer ones: 0.4 s on two CPU cores with the tiny checkpoint, 0.1 s on a GPU.
_MEASURED_TOKENS = 2048

logger = logging.getLogger(__name__)


async def warm_up(engine: Engine, checkpoint: Checkpoint) -> None:
    """Generate a greedy and a sampled answer, and measure a step. Raise what the engine raises."""
    ids = [token % checkpoint.vocab_size for token in range(_MEASURED_TOKENS)]
    # With log probabilities, for which vLLM compiles a function on a GPU.
    await _generate(engine, "greedy", ids[:64], SamplingParams(temperature=0, max_tokens=4, logprobs=1))
    await _generate(
        engine, "sampled", ids[:64], SamplingParams(temperature=1, top_p=0.9, top_k=20, seed=0, max_tokens=4)
    )
    # From its end to its beginning, so that no prefix is cached.
    longest = min(_MEASURED_TOKENS, engine.max_batched_tokens, checkpoint.card.max_model_len - 1)
    began_s = time.monotonic()
    await _generate(engine, "measured", ids[:longest][::-1], SamplingParams(temperature=0, max_tokens=1))
    step_s = time.monotonic() - began_s
    engine.step_time.measure(longest, step_s)
    logger.info("the engine is warm: a step of %d tokens takes %.3f s", longest, step_s)


async def _generate(engine: Engine, name: str, ids: list[int], sampling: SamplingParams) -> None:
    sampling.detokenize = False
    prompt: EngineInput = {"type": "token", "prompt_token_ids": ids}
    async with aclosing(engine.generate(f"warm-up-{name}", prompt, sampling)) as outputs:
        async for _ in outputs:
            pass
