"""The three parts of a step on the device: talker, draws with predictor, codec. Each can be a CUDA graph, or on a CPU a
trace.

All state of a stream between steps is in buffers here, by slot, from 1; slot 0 pads batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from services.talker.checkpoint import SUPPRESSED_IDS, SpeechModels
from services.talker.code2wav.decoder import CodecDecoder
from services.talker.cpu_traces import TracedCall
from services.talker.cuda_graphs import BATCHES, GraphedCall, rounded_up
from services.talker.cuda_stream import CudaStream
from services.talker.fusion import FusedCall, linear
from services.talker.kv_cache import blocks_for
from services.talker.memory import CODEC_FRAMES_AT_ONCE, MemoryPlan
from services.talker.noise import split_draws
from services.talker.predictor import CodePredictor
from services.talker.sampling import CodeSampler
from services.talker.talker_model import TalkerModel, code_embeds

Captured = GraphedCall | TracedCall
"""A part that runs without Python between its operations."""


class StepParts:
    """decode(slots, text_ids, lengths, positions, blocks=) → hidden states [batch, hidden size];
    draw_codes(hidden, slots, noise, width=) → codes [batch, codebooks];
    decode_audio(slots, starts, codes, num_past_frames=) → samples [batch, samples].

    slots, text_ids, lengths and starts are int64 [batch], positions float32 [batch]. Call decode_audio in
    codec_stream and all else in cuda_stream: the two share no buffer.
    """

    def __init__(self, models: SpeechModels, memory: MemoryPlan) -> None:
        self._models = models
        talker, device, fused = models.talker, models.device, models.runs_captured
        self.vocabulary = int(talker.config.text_config.vocab_size)
        suppressed = torch.arange(self.vocabulary, device=device) >= self.vocabulary - SUPPRESSED_IDS
        suppressed[models.config.codec_eos_id] = False
        # The codec has priority: the host waits for the step that it completes, while the next one is already launched.
        self.cuda_stream, self.codec_stream = CudaStream(device), CudaStream(device, high_priority=True)
        self.talker = TalkerModel(talker, fused=fused)
        self.cache = self.talker.new_cache(
            num_blocks=memory.num_blocks,
            slots=memory.slots,
            blocks_per_slot=min(memory.num_blocks, blocks_for(models.config.max_positions)),
        )
        self.sampler = CodeSampler(memory.slots, suppressed)
        self.predictor = CodePredictor(talker, rounded_up(memory.slots, BATCHES, BATCHES[-1]), fused=fused)
        self.codec = CodecDecoder(models.code2wav, slots=memory.slots, frames_at_once=CODEC_FRAMES_AT_ONCE, fused=fused)
        self.settled_frames = self.codec.settled_frames
        # The code embeddings of each slot's last frame; a step adds the text's.
        self.code_embeds = torch.zeros(memory.slots + 1, self.hidden_size, dtype=models.dtype, device=device)
        self._embed_inputs = FusedCall(_embed_inputs, enabled=fused)
        self._draw_first = FusedCall(_draw_first, enabled=fused)
        self._sum_codes = FusedCall(code_embeds, enabled=fused)
        self.decode = self._captured(self._decode, [*self.cache.state, self.code_embeds], self.cuda_stream)
        changed = [*self.sampler.state, self.predictor.kv_cache, self.code_embeds]
        self.draw_codes = self._captured(self._draw_codes, changed, self.cuda_stream)
        self.decode_audio = self._captured(self._decode_audio, self.codec.state, self.codec_stream)

    def _captured(self, part: Callable[..., Tensor], state: Sequence[Tensor], cuda_stream: CudaStream) -> Captured:
        """state: the tensors that change between the part's calls."""
        if self._models.device.type == "cpu":
            return TracedCall(part, state)
        return GraphedCall(part, cuda_stream if self._models.runs_captured else None)

    @property
    def has_untraced(self) -> bool:
        """Whether a part waits for an idle moment to be traced. Never on a GPU."""
        return any(isinstance(part, TracedCall) and part.has_untraced for part in self._all)

    def trace_one(self) -> None:
        """Trace one shape of one part, if one waits for it."""
        for part in self._all:
            if isinstance(part, TracedCall) and part.has_untraced:
                part.trace_one()
                return

    @property
    def _all(self) -> tuple[Captured, ...]:
        return self.decode, self.draw_codes, self.decode_audio

    @property
    def hidden_size(self) -> int:
        return int(self._models.talker.config.text_config.hidden_size)

    @property
    def noise_sizes(self) -> tuple[int, ...]:
        """Vocabularies of a frame's draws, in order."""
        return (self.vocabulary, *[self.predictor.vocabulary] * self.predictor.residuals)

    def _decode(self, slots: Tensor, text_ids: Tensor, lengths: Tensor, positions: Tensor, *, blocks: int) -> Tensor:
        texts = F.embedding(text_ids, self._models.text_embedding)
        embeds = self._embed_inputs(self._models.talker.text_projection, texts, self.code_embeds[slots])
        return self.talker.decode(self.cache, embeds, slots, lengths, positions, blocks=blocks)

    def _draw_codes(self, hidden: Tensor, slots: Tensor, noise: Tensor, *, width: int) -> Tensor:
        head = self._models.talker.codec_head.weight
        first, *residuals = split_draws(noise, self.noise_sizes)
        first_codes = self._draw_first(self.sampler, hidden, slots, first, head=head, width=width)
        codes = self.predictor.predict(hidden, first_codes, residuals)
        self.code_embeds.index_copy_(0, slots, self._sum_codes(self._models.talker, codes))
        return codes

    def _decode_audio(self, slots: Tensor, starts: Tensor, codes: Tensor, *, num_past_frames: int) -> Tensor:
        return self.codec.decode(slots, starts, codes[:, None], num_past_frames=num_past_frames)


def _embed_inputs(projection: Any, texts: Tensor, codes: Tensor) -> Tensor:
    """Return the talker's input: texts, embeddings of the thinker [batch, thinker hidden size], projected, plus codes,
    the code embeddings [batch, hidden size]."""
    inner, outer = projection.linear_fc1, projection.linear_fc2
    return codes + linear(projection.act_fn(linear(texts, inner.weight, inner.bias)), outer.weight, outer.bias)


def _draw_first(
    sampler: CodeSampler, hidden: Tensor, slots: Tensor, noise: Tensor, *, head: Tensor, width: int
) -> Tensor:
    """Draw each stream's code 0."""
    return sampler.draw_first(linear(hidden, head), slots, noise, width=width)
