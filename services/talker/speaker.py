"""Runs the models for all streams at once: a step of talker, draws, predictor and codec; and the prefill of prompts.

A slot numbers a stream's place in every buffer, from 1; slot 0 pads batches. One thread uses a Speaker, within its CUDA
stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from services.talker.checkpoint import SpeechModels
from services.talker.cuda_graphs import BATCHES, rounded_up
from services.talker.cuda_stream import CudaStream, to_device
from services.talker.kv_cache import blocks_for
from services.talker.memory import CODEC_FRAMES_AT_ONCE, MemoryPlan
from services.talker.noise import noise_source
from services.talker.sampling import TIES, SamplingParams
from services.talker.step import InFlightStep, StepEvents, StepInput, record_event
from services.talker.step_parts import StepParts

# Draws with a top-k of at most 50, the default, need no full sort.
_USUAL_WIDTH = 50 + TIES
# On a CPU, a batch-invariant step attends to so many blocks of a stream, or to all.
BLOCK_BUCKETS = (8, 32, 128, 512)


@dataclass(frozen=True)
class PrefillChunk:
    """The next tokens of one slot, after its first `start`: embeds [n, hidden size], positions float32 [3, n]."""

    slot: int
    start: int
    embeds: Tensor
    positions: Tensor


class Speaker:
    """Advances streams over one set of models, in buffers of a fixed size.

    max_prefill_tokens: if above 0, every call has one shape, whatever shares it: a step that of all slots, a prefill
    that of one slot and so many tokens. Then the same kernels run whatever shares the step, and a stream's result
    depends on the stream alone, in bfloat16 too, as far as each kernel is independent across its batch.
    """

    def __init__(self, models: SpeechModels, memory: MemoryPlan, *, max_prefill_tokens: int = 0) -> None:
        self._device = models.device
        self._min_tokens = max_prefill_tokens
        self._max_batch = memory.slots
        self.parts = StepParts(models, memory)
        self._noise = noise_source(self.parts.noise_sizes, memory.slots, self._device, self.parts.cuda_stream)

    @property
    def cuda_stream(self) -> CudaStream:
        """The CUDA stream of the thread that uses the Speaker."""
        return self.parts.cuda_stream

    @property
    def is_batch_invariant(self) -> bool:
        return self._min_tokens > 0

    @property
    def state_bytes(self) -> int:
        """Bytes of the KV cache and the codec's state."""
        return self.parts.cache.kv.nbytes + self.parts.codec.state_bytes

    def open(self, slot: int, blocks: Sequence[int], sampling: SamplingParams) -> None:
        """Begin a new stream in a free slot."""
        self.parts.cache.assign(slot, blocks)
        self.parts.sampler.start(slot, sampling)
        self._noise.start(slot, sampling.seed if sampling.do_sample else None)

    def grow(self, entries: Sequence[tuple[int, int, int]]) -> None:
        """Add blocks to streams: (slot, index in its block table, block)."""
        self.parts.cache.grow(entries)

    def offload(self, blocks: Sequence[int]) -> Tensor:
        """Copy a stream's blocks to the host, to be restored into others."""
        return self.parts.cache.offload(blocks)

    def restore(self, slot: int, blocks: Sequence[int], offloaded: Tensor | None) -> None:
        """Continue a stream that was offloaded, in other blocks; None if it had no tokens yet."""
        self.parts.cache.assign(slot, blocks)
        if offloaded is not None:
            self.parts.cache.restore(blocks[: offloaded.shape[1]], offloaded)

    @torch.inference_mode()
    def prefill(self, chunks: Sequence[PrefillChunk]) -> None:
        """Prefill the next tokens of several slots, no slot twice; if batch-invariant, of one slot."""
        counts = torch.tensor([len(chunk.embeds) for chunk in chunks])
        starts = torch.tensor([chunk.start for chunk in chunks])
        self.parts.talker.prefill(
            self.parts.cache,
            to_device([chunk.slot for chunk in chunks], self._device),
            to_device(starts, self._device),
            to_device(counts, self._device),
            self._pad_chunks([chunk.embeds for chunk in chunks]),
            to_device(self._pad_chunks([chunk.positions.T for chunk in chunks]).permute(2, 0, 1), self._device),
            blocks=blocks_for(int((starts + counts).max())),
        )

    @torch.inference_mode()
    def set_code_embeds(self, slot: int, embeds: Tensor) -> None:
        """Set the code embeddings [hidden size] that the slot's next step adds to its text."""
        self.parts.code_embeds[slot] = embeds

    @torch.inference_mode()
    def replay(self, slot: int, codes: Tensor, first: int, total: int, sampling: SamplingParams) -> None:
        """Bring draws and codec past delivered frames: codes int64 [n, codebooks], the frames from number `first` on,
        of `total`."""
        self.parts.sampler.mark(slot, to_device(codes[:, 0], self._device))
        if sampling.do_sample:
            self._noise.skip(slot, len(codes))
        begin = max(total - self.parts.codec.context_frames - first, 0)  # earlier frames no longer matter to the codec
        with self.parts.codec_stream.ordered_after_current():
            for index in range(begin, len(codes), CODEC_FRAMES_AT_ONCE):
                before = first + index
                at, starts = to_device([slot], self._device), to_device([before], self._device)
                part = to_device(codes[None, index : index + CODEC_FRAMES_AT_ONCE], self._device)
                self.parts.codec.decode(at, starts, part, num_past_frames=min(before, self.parts.settled_frames))

    def samples_after(self, frames: int) -> int:
        """Return how many samples an answer's first `frames` frames give."""
        return self.parts.codec.samples_after(frames)

    @torch.inference_mode()
    def begin(self, inputs: Sequence[StepInput]) -> InFlightStep:
        """Launch a step: the next frame of each stream, at most as many as there are slots. On a GPU the next step may
        be launched before this one is read."""
        parts, device = self.parts, self._device
        start = record_event(device)
        slots = self._batched([each.slot for each in inputs])
        hidden = self._pad(self._hidden_states(inputs), len(slots))
        talker_end = record_event(device)
        width = max(each.sampling.candidates(parts.vocabulary) for each in inputs)
        width = _USUAL_WIDTH if width + TIES <= _USUAL_WIDTH and not self.is_batch_invariant else parts.vocabulary
        noise = self._noise.frame(slots, [each.slot for each in inputs if each.sampling.do_sample])
        # A copy: the next step's draws overwrite the output, while the codec may still read it.
        codes = parts.draw_codes(hidden, slots, noise, width=width).clone()
        predictor_end = record_event(device)
        with parts.codec_stream.ordered_after_current():
            codec_start = record_event(device)
            groups = self._decode_audio(inputs, codes)
            events = StepEvents(start, talker_end, predictor_end, codec_start, record_event(device))
            return InFlightStep(codes[: len(inputs)], groups, events)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Compile and capture what steps replay, for all batch sizes (if batch-invariant, the one there is), and what
        resuming runs for its last frame. Does nothing on a CPU."""
        if self._device.type != "cuda":
            return
        usual, wide = SamplingParams(seed=0), SamplingParams(seed=0, top_k=0)
        settled = self.parts.settled_frames
        # The largest first: torch compiles best for the first batch size that it meets, and smaller graphs reuse the
        # memory of larger ones.
        kinds = [
            StepInput(0, 0, 0, 0.0, frames, params) for frames, params in ((settled, usual), (0, usual), (0, wide))
        ]
        smaller = [] if self.is_batch_invariant else [size for size in reversed(BATCHES) if size < self._max_batch]
        with self.cuda_stream.activate():
            for batch in [self._max_batch, *smaller]:
                for each in kinds:
                    self.begin([each] * batch).frames()
            self.replay(0, torch.zeros(1, len(self.parts.noise_sizes), dtype=torch.int64), 0, 1, usual)

    def _hidden_states(self, inputs: Sequence[StepInput]) -> Tensor:
        """Return the talker's hidden states [len(inputs), hidden size]. On a GPU, streams of all lengths share a call;
        on a CPU too, unless batch-invariant: there the length of the others must not shape a stream's call."""
        if self._device.type == "cuda":
            return self._decode(inputs, 0)
        blocks = [blocks_for(each.length + 1) for each in inputs]
        if not self.is_batch_invariant:
            return self._decode(inputs, max(blocks))
        hidden = torch.empty_like(self.parts.code_embeds[: len(inputs)])
        most = self.parts.cache.max_blocks_per_slot
        buckets = [rounded_up(count, BLOCK_BUCKETS, most) for count in blocks]
        for bucket in sorted(set(buckets)):
            indices = [index for index, each in enumerate(buckets) if each == bucket]
            hidden[indices] = self._decode([inputs[index] for index in indices], bucket)
        return hidden

    def _decode(self, inputs: Sequence[StepInput], blocks: int) -> Tensor:
        return self.parts.decode(
            self._batched([each.slot for each in inputs]),
            self._batched([each.text_id for each in inputs]),
            self._batched([each.length for each in inputs]),
            self._batched([each.position for each in inputs], torch.float32),
            blocks=blocks,
        )[: len(inputs)]

    def _decode_audio(self, inputs: Sequence[StepInput], codes: Tensor) -> list[tuple[list[int], Tensor]]:
        """Return (batch indices, samples [streams, n]). Streams that begin are separate: their frame gives fewer
        samples."""
        groups: list[tuple[list[int], Tensor]] = []
        stages = [min(each.frames, self.parts.settled_frames) for each in inputs]
        for num_past_frames in sorted(set(stages)):
            indices = [index for index, stage in enumerate(stages) if stage == num_past_frames]
            slots = self._batched([inputs[index].slot for index in indices])
            starts = self._batched([inputs[index].frames for index in indices])
            chosen = codes if len(indices) == len(inputs) else codes[to_device(indices, self._device)]
            chosen = self._pad(chosen, len(slots))
            groups.append((indices, self.parts.decode_audio(slots, starts, chosen, num_past_frames=num_past_frames)))
        return groups

    def _pad_chunks(self, parts: list[Tensor]) -> Tensor:
        """Stack prefill chunks to [slots, tokens, width], padding shorter ones."""
        padded = pad_sequence(parts, batch_first=True)
        return F.pad(padded, (0, 0, 0, max(self._min_tokens - padded.shape[1], 0)))

    def _batched(self, values: Sequence[int | float], dtype: torch.dtype = torch.int64) -> Tensor:
        """Copy values to the device, padded with zeros to a batch size that has graphs."""
        count = self._max_batch if self.is_batch_invariant else len(values)
        if self._device.type == "cuda":
            count = rounded_up(count, BATCHES, BATCHES[-1])
        return to_device([*values, *[0] * (count - len(values))], self._device, dtype)

    def _pad(self, batch: Tensor, count: int) -> Tensor:
        if len(batch) == count:
            return batch
        return torch.cat((batch, batch.new_zeros(count - len(batch), *batch.shape[1:])))
