"""Run many short streams through one engine to find leaks."""

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
    """Speak `streams` answers of random length and cancel one in four. Return the number of frames.

    Two more streams run than the engine holds, so that two always wait."""
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
    """Return this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
