"""A paused stream resumes with the same codes and the same bits as without the pause."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
import torch
from prometheus_client import REGISTRY

from services.common.errors import ContextTooLong
from services.talker.checkpoint import SpeechConfig, SpeechModels, load_speech_models
from services.talker.engine import SpeechEngine
from services.talker.kv_cache import BLOCK_SIZE
from services.talker.memory import plan_memory
from services.talker.sampling import SamplingParams
from services.talker.stream import SpeechRequest
from tests.fixtures.wait import wait_until
from tests.talker.speech import Spoken, collect, prompt_of_length, speak

PROMPT = 2 * BLOCK_SIZE - 2
FRAMES = BLOCK_SIZE + 4
"""So that a stream grows into a third and a fourth block."""


def preemptions() -> float:
    return REGISTRY.get_sample_value("antiphon_talker_preemptions_total") or 0


def engine_of(models: SpeechModels, num_blocks: int, *, batch_invariant: bool = False) -> SpeechEngine:
    models = dataclasses.replace(models, config=dataclasses.replace(models.config, codec_eos_id=-1))
    plan = dataclasses.replace(plan_memory(models, 120_000_000, slots=4, max_frames=FRAMES), num_blocks=num_blocks)
    engine = SpeechEngine(models, memory=plan, batch_invariant=batch_invariant, steps_ahead=1)
    engine.start()
    return engine


def request_of(config: SpeechConfig, seed: int, frames: int) -> SpeechRequest:
    nothing = torch.zeros(0, config.codebooks, dtype=torch.int64)
    return SpeechRequest(prompt_of_length(config, PROMPT), SamplingParams(seed=seed), frames, nothing)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_a_paused_stream_resumes_unchanged(tiny_instruct: Path, dtype: str) -> None:
    """With batch-invariant steps it is equal bit for bit, in bfloat16 too: its keys and values come back unchanged."""
    models = load_speech_models(tiny_instruct, dtype=dtype)
    config, text = models.config, [models.config.assistant_id] * FRAMES
    older, younger = (request_of(config, seed, frames) for seed, frames in ((1, FRAMES), (2, 12)))
    engine = engine_of(models, 5, batch_invariant=True)
    before = preemptions()
    try:
        alone = [await speak(engine, request, text) for request in (older, younger)]
        assert preemptions() == before
        first = engine.submit(older)
        second = engine.submit(younger)
        for stream in (first, second):
            stream.feed(text, is_last=True)
        together: list[Spoken] = list(await asyncio.gather(collect(first), collect(second)))
        assert preemptions() == before + 1
        await wait_until(lambda: engine.free_slots == engine.slots)
    finally:
        engine.close()
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.codes, other.codes)
        assert torch.equal(one.samples, other.samples)


async def test_a_paused_stream_can_be_cancelled(speech_models: SpeechModels) -> None:
    """It waits for text, so it stays paused until the test has seen it."""
    engine = engine_of(speech_models, 5)
    text = [engine.config.assistant_id] * FRAMES
    try:
        waits, runs = (engine.submit(request_of(engine.config, seed, FRAMES)) for seed in (1, 2))
        waits.feed(text[:2], is_last=False)
        runs.feed(text, is_last=True)
        speech = asyncio.create_task(collect(runs), name="listen")
        rest = asyncio.create_task(collect(waits), name="listen")
        await wait_until(lambda: waits.state.is_paused)
        waits.cancel()
        assert len((await speech).codes) == FRAMES
        assert len((await rest).codes) < FRAMES
        await wait_until(lambda: engine.free_slots == engine.slots)
        assert len((await speak(engine, request_of(engine.config, 3, 2), text)).codes) == 2
    finally:
        engine.close()


async def test_a_stream_larger_than_the_cache_is_refused_with_numbers(speech_models: SpeechModels) -> None:
    engine = engine_of(speech_models, 1)
    try:
        with pytest.raises(ContextTooLong, match=rf"takes {PROMPT} tokens .* holds {BLOCK_SIZE}"):
            engine.submit(request_of(engine.config, 1, 2))
    finally:
        engine.close()
