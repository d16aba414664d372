"""A first short answer, so that the first client does not wait for torch's one-time setup."""

from __future__ import annotations

import torch

from services.talker.checkpoint import SpeechConfig
from services.talker.conditioning import read_prompt
from services.talker.engine import SpeechEngine
from services.talker.sampling import SamplingParams
from services.talker.stream import SpeechRequest

_FRAMES = 40  # enough for a CPU to trace the shapes that come often


async def warm_up(engine: SpeechEngine, config: SpeechConfig) -> None:
    """Speak a few frames. Raises what the engine raises: then the talker is not ready."""
    word = config.assistant_id
    prompt = read_prompt(
        config,
        [config.im_start_id, config.user_id, word, config.im_start_id, config.assistant_id, word],
        image_grids=(),
        video_grids=(),
        hidden_states=None,
        voice="",
    )
    nothing_delivered = torch.zeros(0, config.codebooks, dtype=torch.int64)
    stream = engine.submit(SpeechRequest(prompt, SamplingParams(seed=0), _FRAMES, nothing_delivered))
    stream.feed([word] * _FRAMES, is_last=True)
    async for _ in stream:
        pass
