"""The three parts of a step on the device: the talker, draws with predictor, the codec. Each can be a CUDA graph, or on
a CPU a trace.

Everything that a stream keeps between steps lies in buffers here, by slot, from 1; slot 0 fills up batches.
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
from services.talker.fusion import FusedCall, linear
from services.talker.kv_cache import pages_for
from services.talker.lanes import Lane
from services.talker.memory import CODEC_FRAMES_AT_ONCE, MemoryPlan
from services.talker.predictor import CodePredictor
from services.talker.sampling import CodeSampler
from services.talker.talker_model import TalkerModel, code_rows

Whole = GraphedCall | TracedCall
"""A part that runs without Python between its operations."""


class StepParts:
    """decode(slots, text_ids, lengths, positions, pages=) → hidden states [batch, hidden size];
    complete(hidden, slots, noise, width=) → codes [batch, codebooks];
    voice(slots, starts, codes, seen=) → samples [batch, samples].

    slots, text_ids, lengths and starts are int64 [batch], positions float32 [batch]. voice is called in codec_lane, all
    else in lane: the two share no buffer.
    """

    def __init__(self, models: SpeechModels, memory: MemoryPlan) -> None:
        self._models = models
        talker, device, fused = models.talker, models.device, models.runs_captured
        self.vocabulary = int(talker.config.text_config.vocab_size)
        suppressed = torch.arange(self.vocabulary, device=device) >= self.vocabulary - SUPPRESSED_IDS
        suppressed[models.config.codec_eos_id] = False
        # The codec goes first: the step that it ends is what the host waits for, while the next one has been begun.
        self.lane, self.codec_lane = Lane(device), Lane(device, goes_first=True)
        self.talker = TalkerModel(talker, fused=fused)
        self.cache = self.talker.new_cache(
            pages=memory.pages,
            slots=memory.slots,
            pages_a_slot=min(memory.pages, pages_for(models.config.max_positions)),
        )
        self.sampler = CodeSampler(memory.slots, suppressed)
        self.predictor = CodePredictor(talker, rounded_up(memory.slots, BATCHES, BATCHES[-1]), fused=fused)
        self.codec = CodecDecoder(models.code2wav, slots=memory.slots, frames_at_once=CODEC_FRAMES_AT_ONCE, fused=fused)
        self.settled_frames = self.codec.settled_frames
        # What the talker hears of each slot's last frame, to which its text is added.
        self.code_rows = torch.zeros(memory.slots + 1, self.hidden_size, dtype=models.dtype, device=device)
        self._hear, self._draw = FusedCall(_heard, enabled=fused), FusedCall(_drawn, enabled=fused)
        self._sum_codes = FusedCall(code_rows, enabled=fused)
        self.decode = self._whole(self._decode, [*self.cache.kept, self.code_rows], self.lane)
        changed = [*self.sampler.kept, self.predictor.kept, self.code_rows]
        self.complete = self._whole(self._complete, changed, self.lane)
        self.voice = self._whole(self._voice, self.codec.kept, self.codec_lane)

    def _whole(self, part: Callable[..., Tensor], kept: Sequence[Tensor], lane: Lane) -> Whole:
        """kept: what the part changes, or is changed for it."""
        if self._models.device.type == "cpu":
            return TracedCall(part, kept)
        return GraphedCall(part, lane if self._models.runs_captured else None)

    @property
    def hidden_size(self) -> int:
        return int(self._models.talker.config.text_config.hidden_size)

    @property
    def noise_sizes(self) -> tuple[int, ...]:
        """Vocabularies of a frame's draws, in order."""
        return (self.vocabulary, *[self.predictor.vocabulary] * self.predictor.residuals)

    def _decode(self, slots: Tensor, text_ids: Tensor, lengths: Tensor, positions: Tensor, *, pages: int) -> Tensor:
        texts = F.embedding(text_ids, self._models.text_embedding)
        rows = self._hear(self._models.talker.text_projection, texts, self.code_rows[slots])
        return self.talker.decode(self.cache, rows, slots, lengths, positions, pages=pages)

    def _complete(self, hidden: Tensor, slots: Tensor, noise: Tensor, *, width: int) -> Tensor:
        head = self._models.talker.codec_head.weight
        first_codes = self._draw(self.sampler, hidden, slots, noise[:, : self.vocabulary], head=head, width=width)
        excluded = self.sampler.residuals_beyond(slots, self.predictor.candidates)
        codes = self.predictor.predict(hidden, first_codes, excluded, noise[:, self.vocabulary :])
        self.code_rows.index_copy_(0, slots, self._sum_codes(self._models.talker, codes))
        return codes

    def _voice(self, slots: Tensor, starts: Tensor, codes: Tensor, *, seen: int) -> Tensor:
        return self.codec.decode(slots, starts, codes[:, None], seen=seen)


def _heard(projection: Any, texts: Tensor, codes: Tensor) -> Tensor:
    """What the talker hears: of text, the thinker's embedding [batch, thinker hidden size]; of codes, their rows."""
    inner, outer = projection.linear_fc1, projection.linear_fc2
    return codes + linear(projection.act_fn(linear(texts, inner.weight, inner.bias)), outer.weight, outer.bias)


def _drawn(sampler: CodeSampler, hidden: Tensor, slots: Tensor, noise: Tensor, *, head: Tensor, width: int) -> Tensor:
    """Each stream's code 0."""
    return sampler.draw_first(linear(hidden, head), slots, noise, width=width)
