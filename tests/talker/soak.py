"""Many short streams through one engine, to see that nothing stays behind."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import torch

from services.talker.engine import SpeechEngine
from services.talker.sampling import SamplingParams
from services.talker.stream import SpeechRequest
from tests.talker.speech import prompt_of_length


async def soak(engine: SpeechEngine, streams: int, *, seed: int, max_frames: int = 8) -> int:
    """Speaks `streams` answers of random length, one in four left early; as many at once as the engine holds, and two
    that wait. Returns the frames that came."""
    chance = random.Random(seed)
    config = engine.config
    gate = asyncio.Semaphore(engine.slots + 2)
    frames = 0

    async def one(number: int, tokens: int, length: int, leaves_after: int | None) -> None:
        nonlocal frames
        async with gate:
            request = SpeechRequest(
                prompt_of_length(config, tokens),
                SamplingParams(seed=number),
                length,
                torch.zeros(0, config.codebooks, dtype=torch.int64),
            )
            stream = engine.submit(request)
            stream.feed([config.assistant_id] * length, is_last=True)
            async for chunk in stream:
                frames += len(chunk.codes)
                if chunk.first_frame + 1 == leaves_after:
                    stream.cancel()

    async with asyncio.TaskGroup() as tasks:
        for number in range(streams):
            length = chance.randrange(1, max_frames + 1)
            leaves_after = chance.randrange(1, length + 1) if chance.random() < 0.25 else None
            tasks.create_task(one(number, chance.randrange(12, 150), length, leaves_after))
    return frames


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
