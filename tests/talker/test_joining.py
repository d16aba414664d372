"""Prompts on their way into the cache: together where they fit into one step, and the same as each alone."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from services.talker.checkpoint import SpeechModels
from services.talker.joining import FRAMES_A_STEP, ROWS_A_STEP, Prefiller
from services.talker.kv_cache import PAGE_ROWS, pages_for
from services.talker.memory import budget_bytes, plan_memory
from services.talker.sampling import SamplingParams
from services.talker.speaker import Speaker
from services.talker.stream import SpeechRequest, SpeechState, SpeechStream, SpokenText
from tests.talker.speech import prompt_of_rows

pytestmark = pytest.mark.asyncio  # a stream belongs to an event loop
SAMPLING = SamplingParams(seed=0)


class Joining:
    """Streams whose prompts have these many rows, in slots of their own; so many frames of each were delivered."""

    def __init__(self, models: SpeechModels, prompts: Sequence[int], delivered: int = 0) -> None:
        self.speaker = Speaker(models, plan_memory(models, budget_bytes(models), slots=len(prompts)))
        self.prefiller = Prefiller(models, self.speaker)
        self.streams: list[SpeechStream] = []
        codes = torch.zeros(delivered, models.config.codebooks, dtype=torch.int64)
        page = 1
        for slot, rows in enumerate(prompts, 1):
            prompt = prompt_of_rows(models.config, rows)
            pages = list(range(page, page := page + pages_for(prompt.rows + delivered)))
            prefill_rows = prompt.rows - 1 + delivered
            state = SpeechState(most_frames=delivered + 1, prefill_rows=prefill_rows, slot=slot, pages=pages)
            request = SpeechRequest(prompt, SAMPLING, delivered + 1, codes)
            text = SpokenText.after(prompt.spoken_ids)
            self.streams.append(SpeechStream(request, 1, text, state, contextlib.nullcontext))
            self.speaker.open(slot, pages, SAMPLING)

    def kept(self, stream: SpeechStream) -> Tensor:
        """The stream's keys and values [layers, rows, 2, kv heads, head size]."""
        places = torch.cat([torch.arange(PAGE_ROWS) + page * PAGE_ROWS for page in stream.state.pages])
        return self.speaker.parts.cache.rows[:, places[: stream.state.length]]


async def test_prompts_that_fit_go_in_together_and_are_the_same_as_alone(speech_models: SpeechModels) -> None:
    prompts = (20, 70, 33)
    together, alone = Joining(speech_models, prompts), Joining(speech_models, prompts)
    together.prefiller.advance(together.streams)
    assert all(stream.state.is_prefilled for stream in together.streams)
    for stream, lonely in zip(together.streams, alone.streams, strict=True):
        alone.prefiller.advance([lonely])
        assert lonely.state.length == stream.state.length
        assert torch.allclose(together.kept(stream), alone.kept(lonely), atol=1e-5, rtol=0)
        assert float(together.kept(stream).abs().amin(dim=(0, 2, 3, 4)).min()) > 0  # every row was written


async def test_a_long_prompt_goes_first_and_in_pieces(speech_models: SpeechModels) -> None:
    joining = Joining(speech_models, (ROWS_A_STEP + 100, 30, 30))
    long, *short = joining.streams
    joining.prefiller.advance(joining.streams)
    assert long.state.length == ROWS_A_STEP
    assert [stream.state.length for stream in short] == [0, 0]
    joining.prefiller.advance(joining.streams)
    assert all(stream.state.is_prefilled for stream in joining.streams)


async def test_a_step_takes_in_a_bounded_number_of_rows(speech_models: SpeechModels) -> None:
    joining = Joining(speech_models, [ROWS_A_STEP // 4] * 6)
    joining.prefiller.advance(joining.streams)
    assert [stream.state.is_prefilled for stream in joining.streams] == [True] * 4 + [False] * 2


async def test_a_step_takes_in_a_bounded_number_of_delivered_frames(speech_models: SpeechModels) -> None:
    joining = Joining(speech_models, (20, 20, 20), delivered=FRAMES_A_STEP // 2)
    for stream in joining.streams:
        stream.text.add([1] * FRAMES_A_STEP, is_last=True)
    joining.prefiller.advance(joining.streams)  # the prompts
    joining.prefiller.advance(joining.streams)
    assert [stream.state.frames for stream in joining.streams] == [FRAMES_A_STEP // 2] * 2 + [0]
    joining.prefiller.advance(joining.streams[2:])
    assert all(stream.state.is_prefilled for stream in joining.streams)
