"""Prefill: prompts that fit one step run together, and leave the same cache as each alone."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from services.talker.checkpoint import SpeechModels
from services.talker.kv_cache import BLOCK_SIZE, blocks_for
from services.talker.memory import budget_bytes, plan_memory
from services.talker.prefill import MAX_PREFILL_FRAMES, MAX_PREFILL_TOKENS, Prefiller
from services.talker.sampling import SamplingParams
from services.talker.speaker import Speaker
from services.talker.stream import SpeechRequest, SpeechState, SpeechStream, SpokenText
from tests.talker.speech import prompt_of_length

pytestmark = pytest.mark.asyncio  # a stream belongs to an event loop
SAMPLING = SamplingParams(seed=0)


class Prefilling:
    """Streams in prefill, each in its own slot, with prompts of these lengths and this many delivered frames."""

    def __init__(self, models: SpeechModels, prompts: Sequence[int], delivered: int = 0) -> None:
        self.speaker = Speaker(models, plan_memory(models, budget_bytes(models), slots=len(prompts)))
        self.prefiller = Prefiller(models, self.speaker)
        self.streams: list[SpeechStream] = []
        codes = torch.zeros(delivered, models.config.codebooks, dtype=torch.int64)
        block = 1
        for slot, tokens in enumerate(prompts, 1):
            prompt = prompt_of_length(models.config, tokens)
            blocks = list(range(block, block := block + blocks_for(prompt.num_tokens + delivered)))
            prefill_tokens = prompt.num_tokens - 1 + delivered
            state = SpeechState(max_frames=delivered + 1, prefill_tokens=prefill_tokens, slot=slot, blocks=blocks)
            request = SpeechRequest(prompt, SAMPLING, delivered + 1, codes)
            text = SpokenText.after(prompt.spoken_ids)
            self.streams.append(SpeechStream(request, 1, text, state, contextlib.nullcontext))
            self.speaker.open(slot, blocks, SAMPLING)

    def kv(self, stream: SpeechStream) -> Tensor:
        """Return the stream's keys and values: [layers, tokens, 2, kv heads, head size]."""
        locations = torch.cat([torch.arange(BLOCK_SIZE) + block * BLOCK_SIZE for block in stream.state.blocks])
        return self.speaker.parts.cache.kv[:, locations[: stream.state.length]]


async def test_prompts_that_fit_are_prefilled_together_and_as_alone(speech_models: SpeechModels) -> None:
    prompts = (20, 70, 33)
    together, alone = Prefilling(speech_models, prompts), Prefilling(speech_models, prompts)
    together.prefiller.advance(together.streams)
    assert all(stream.state.is_prefilled for stream in together.streams)
    for stream, lonely in zip(together.streams, alone.streams, strict=True):
        alone.prefiller.advance([lonely])
        assert lonely.state.length == stream.state.length
        assert torch.allclose(together.kv(stream), alone.kv(lonely), atol=1e-5, rtol=0)
        assert float(together.kv(stream).abs().amin(dim=(0, 2, 3, 4)).min()) > 0  # every token was written


async def test_a_long_prompt_is_prefilled_first_and_in_chunks(speech_models: SpeechModels) -> None:
    prefilling = Prefilling(speech_models, (MAX_PREFILL_TOKENS + 100, 30, 30))
    long, *short = prefilling.streams
    prefilling.prefiller.advance(prefilling.streams)
    assert long.state.length == MAX_PREFILL_TOKENS
    assert [stream.state.length for stream in short] == [0, 0]
    prefilling.prefiller.advance(prefilling.streams)
    assert all(stream.state.is_prefilled for stream in prefilling.streams)


async def test_a_step_prefills_a_bounded_number_of_tokens(speech_models: SpeechModels) -> None:
    prefilling = Prefilling(speech_models, [MAX_PREFILL_TOKENS // 4] * 6)
    prefilling.prefiller.advance(prefilling.streams)
    assert [stream.state.is_prefilled for stream in prefilling.streams] == [True] * 4 + [False] * 2


async def test_a_step_prefills_a_bounded_number_of_delivered_frames(speech_models: SpeechModels) -> None:
    prefilling = Prefilling(speech_models, (20, 20, 20), delivered=MAX_PREFILL_FRAMES // 2)
    for stream in prefilling.streams:
        stream.text.add([1] * MAX_PREFILL_FRAMES, is_last=True)
    prefilling.prefiller.advance(prefilling.streams)  # the prompts
    prefilling.prefiller.advance(prefilling.streams)
    assert [stream.state.frames for stream in prefilling.streams] == [MAX_PREFILL_FRAMES // 2] * 2 + [0]
    prefilling.prefiller.advance(prefilling.streams[2:])
    assert all(stream.state.is_prefilled for stream in prefilling.streams)
