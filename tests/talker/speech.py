"""Requests to the engine for answers that the oracle gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from antiphon.v1 import common_pb2
from services.talker.checkpoint import SpeechConfig
from services.talker.conditioning import Prompt, read_prompt
from services.talker.engine import SpeechEngine
from services.talker.sampling import SamplingParams
from services.talker.stream import SpeechChunk, SpeechRequest, SpeechStream, SpeechSummary
from tests.fixtures.oracle import OracleResult, TalkerOptions


@dataclass(frozen=True)
class Spoken:
    """Everything that a stream sent."""

    codes: Tensor
    samples: Tensor
    chunks: list[SpeechChunk]
    summary: SpeechSummary | None


def grids_of(answer: OracleResult) -> tuple[list[common_pb2.MediaGrid], list[common_pb2.MediaGrid]]:
    images = [common_pb2.MediaGrid(t=t, h=h, w=w) for t, h, w in answer.image_grids]
    videos = [
        common_pb2.MediaGrid(t=t, h=h, w=w, seconds_per_grid=seconds)
        for (t, h, w), seconds in zip(answer.video_grids, answer.seconds_per_grid, strict=True)
    ]
    return images, videos


def prompt_of(config: SpeechConfig, answer: OracleResult, voice: str = "Ethan") -> Prompt:
    images, videos = grids_of(answer)
    hidden_states = answer.hidden_states if len(answer.hidden_states) else None
    return read_prompt(
        config, answer.prompt_ids, image_grids=images, video_grids=videos, hidden_states=hidden_states, voice=voice
    )


def prompt_of_length(config: SpeechConfig, tokens: int) -> Prompt:
    """Return a text prompt of this many tokens."""
    turn = [config.im_start_id, config.user_id, *[config.assistant_id] * (tokens - 11)]
    ids = [*turn, config.im_start_id, config.assistant_id, config.assistant_id]
    return read_prompt(config, ids, image_grids=(), video_grids=(), hidden_states=None, voice="")


def request_of(
    config: SpeechConfig,
    answer: OracleResult,
    options: TalkerOptions,
    *,
    voice: str = "Ethan",
    delivered: Tensor | None = None,
) -> SpeechRequest:
    sampling = SamplingParams(
        seed=options.seed,
        do_sample=options.do_sample,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
    )
    if delivered is None:
        delivered = torch.zeros(0, config.codebooks, dtype=torch.int64)
    return SpeechRequest(prompt_of(config, answer, voice), sampling, options.max_frames, delivered)


async def collect(stream: SpeechStream) -> Spoken:
    chunks = [chunk async for chunk in stream]
    codes = [torch.from_numpy(chunk.codes) for chunk in chunks]
    samples = [torch.from_numpy(chunk.samples) for chunk in chunks]
    return Spoken(
        torch.cat(codes) if codes else torch.zeros(0, 16, dtype=torch.int64),
        torch.cat(samples) if samples else torch.zeros(0),
        chunks,
        stream.summary,
    )


async def speak(engine: SpeechEngine, request: SpeechRequest, token_ids: Sequence[int]) -> Spoken:
    """Speak the text, fed all at once."""
    stream = engine.submit(request)
    stream.feed(token_ids, is_last=True)
    return await collect(stream)
