"""A first answer, so that the first client does not wait for torch's one-time setup."""

from __future__ import annotations

import time

import torch

from services.talker.checkpoint import SpeechConfig
from services.talker.conditioning import read_prompt
from services.talker.engine import SpeechEngine
from services.talker.prefill import MAX_PREFILL_TOKENS
from services.talker.sampling import SamplingParams
from services.talker.stream import SpeechRequest

_FRAMES = 40  # enough for a CPU to trace the shapes that come often


async def warm_up(engine: SpeechEngine, config: SpeechConfig) -> None:
    """Speak a few frames after a prompt that fills a step, and go on with them as after another worker's loss.

    Sets the engine's `longest_step_s`. Raises what the engine raises: then the talker is not ready.
    """
    word = config.assistant_id
    filling = max(min(MAX_PREFILL_TOKENS, engine.longest_answer - 2 * _FRAMES), 1)
    prompt = read_prompt(
        config,
        [config.im_start_id, config.user_id, *[word] * filling, config.im_start_id, config.assistant_id, word],
        image_grids=(),
        video_grids=(),
        hidden_states=None,
        voice="",
    )
    codes = torch.zeros(0, config.codebooks, dtype=torch.int64)
    for frames in (_FRAMES, _FRAMES + 1):
        stream = engine.submit(SpeechRequest(prompt, SamplingParams(seed=0), frames, codes))
        stream.feed([word] * _FRAMES, is_last=True)
        asked_s = time.monotonic()
        async for chunk in stream:
            engine.longest_step_s = max(engine.longest_step_s, time.monotonic() - asked_s)
            asked_s = time.monotonic()
            codes = torch.cat((codes, torch.from_numpy(chunk.codes)))
