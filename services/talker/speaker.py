"""What the models do in a step, for all its streams at once: talker, draws, predictor, codec; and a prompt's prefill.

Slots number the streams' places in every buffer, from 1; slot 0 fills up batches. One thread uses a Speaker, within its
lane.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from services.talker.checkpoint import SpeechModels
from services.talker.cuda_graphs import BATCHES, PAGES, rounded_up
from services.talker.kv_cache import PAGE_ROWS, pages_for
from services.talker.lanes import Lane, to_device
from services.talker.memory import CODEC_FRAMES_AT_ONCE, MemoryPlan
from services.talker.noise import noise_source
from services.talker.sampling import SamplingParams
from services.talker.step import StepMarks, StepRow, StepUnderWay, mark
from services.talker.step_parts import StepParts

# Streams that draw among at most so many candidates need no full sort.
_USUAL_WIDTH = 64


@dataclass(frozen=True)
class PromptPiece:
    """Rows that one slot takes in, after its first `start`: rows [n, hidden size], positions float32 [3, n]."""

    slot: int
    start: int
    rows: Tensor
    positions: Tensor


class Speaker:
    """Advances streams over one set of models, in buffers of a fixed size.

    invariant_rows: where above 0, each call has one shape, whoever shares it: of a step, that of all slots; of a
    prefill, that of one slot and so many rows, the most that it takes. Then the same kernels run whatever shares the
    step, and what a row gives depends on the row alone, in bfloat16 too, as far as each kernel keeps its rows apart.
    """

    def __init__(self, models: SpeechModels, memory: MemoryPlan, *, invariant_rows: int = 0) -> None:
        self._device = models.device
        self._least_rows = invariant_rows
        self._most, self._step_pages = memory.slots, memory.step_pages
        self.parts = StepParts(models, memory)
        self._noise = noise_source(self.parts.noise_sizes, memory.slots, self._device, self.parts.lane)

    @property
    def lane(self) -> Lane:
        """Where the thread that uses the Speaker works."""
        return self.parts.lane

    @property
    def is_batch_invariant(self) -> bool:
        return self._least_rows > 0

    @property
    def kept_bytes(self) -> int:
        """Keys and values, and the codec's state."""
        return self.parts.cache.rows.nbytes + self.parts.codec.kept_bytes

    def open(self, slot: int, pages: Sequence[int], sampling: SamplingParams) -> None:
        """A new stream in a slot that is free."""
        self.parts.cache.assign(slot, pages)
        self.parts.sampler.start(slot, sampling)
        self._noise.start(slot, sampling.seed)

    @torch.inference_mode()
    def prefill(self, pieces: Sequence[PromptPiece]) -> None:
        """Takes in the next rows of several slots, no slot twice; where batch_invariant, of one slot."""
        counts = torch.tensor([len(piece.rows) for piece in pieces])
        starts = torch.tensor([piece.start for piece in pieces])
        self.parts.talker.prefill(
            self.parts.cache,
            to_device([piece.slot for piece in pieces], self._device),
            to_device(starts, self._device),
            to_device(counts, self._device),
            self._filled_up([piece.rows for piece in pieces]),
            to_device(self._filled_up([piece.positions.T for piece in pieces]).permute(2, 0, 1), self._device),
            pages=pages_for(int((starts + counts).max())),
        )

    @torch.inference_mode()
    def hear(self, slot: int, row: Tensor) -> None:
        """What the slot's next step hears beside its text: [hidden size]."""
        self.parts.code_rows[slot] = row

    @torch.inference_mode()
    def replay(self, slot: int, codes: Tensor, first: int, total: int, sampling: SamplingParams) -> None:
        """Brings draws and codec past frames that were delivered before: codes int64 [n, codebooks], the frames from
        number `first` on, of `total`."""
        self.parts.sampler.mark(slot, to_device(codes[:, 0], self._device))
        if sampling.do_sample:
            self._noise.skip(slot, len(codes))
        begin = max(total - self.parts.codec.context_frames - first, 0)  # the codec remembers no longer
        with self.parts.codec_lane.after_this():
            for index in range(begin, len(codes), CODEC_FRAMES_AT_ONCE):
                before = first + index
                at, starts = to_device([slot], self._device), to_device([before], self._device)
                part = to_device(codes[None, index : index + CODEC_FRAMES_AT_ONCE], self._device)
                self.parts.codec.decode(at, starts, part, seen=min(before, self.parts.settled_frames))

    def samples_after(self, frames: int) -> int:
        """How many samples an answer's first `frames` frames give."""
        return self.parts.codec.samples_after(frames)

    @torch.inference_mode()
    def begin(self, rows: Sequence[StepRow]) -> StepUnderWay:
        """The next frame of each stream, at most as many as there are slots. On a GPU another step may be begun before
        this one is read."""
        parts, device = self.parts, self._device
        start = mark(device)
        slots = self._batched([row.slot for row in rows])
        hidden = self._pad(self._hidden(rows), len(slots))
        heard = mark(device)
        width = max(row.sampling.candidates(parts.vocabulary) for row in rows)
        width = _USUAL_WIDTH if width <= _USUAL_WIDTH and not self.is_batch_invariant else parts.vocabulary
        noise = self._noise.frame(slots, [row.slot for row in rows if row.sampling.do_sample])
        # A copy: the next step's draws are put in the same place, while the codec may still be at these.
        codes = parts.complete(hidden, slots, noise, width=width).clone()
        drawn = mark(device)
        with parts.codec_lane.after_this():
            voice_start = mark(device)
            groups = self._speech(rows, codes)
            marks = StepMarks(start, heard, drawn, voice_start, mark(device))
            return StepUnderWay(codes[: len(rows)], groups, marks)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Compiles and captures what a step replays, from all streams to one or, where batch-invariant, for all, short
        or as long as can be; and what a resume runs for its last frame. Nothing on a CPU."""
        if self._device.type != "cuda":
            return
        usual, wide = SamplingParams(seed=0), SamplingParams(seed=0, top_k=0)
        settled = self.parts.settled_frames
        # The largest first: how many streams torch meets first is what it compiles for best, and smaller graphs work in
        # the memory of larger ones.
        kinds = [StepRow(0, 0, 0, 0.0, frames, params) for frames, params in ((settled, usual), (0, usual), (0, wide))]
        smaller = [] if self.is_batch_invariant else [size for size in reversed(BATCHES) if size < self._most]
        with self.lane.entered():
            for batch in [self._most, *smaller]:
                for pages in reversed(self._page_counts()[1:]):
                    longest = StepRow(0, 0, pages * PAGE_ROWS - 1, 0.0, settled, usual)
                    self._hidden([longest] * min(batch, self._most_at_once(pages)))
                for row in kinds:
                    self.begin([row] * batch).frames()
            self.replay(0, torch.zeros(1, len(self.parts.noise_sizes), dtype=torch.int64), 0, 1, usual)

    def _page_counts(self) -> list[int]:
        """How many of a slot's pages a graph looks at."""
        most = self.parts.cache.pages_of_a_slot
        return [*(count for count in PAGES if count < most), most]

    def _pages(self, rows: Sequence[StepRow]) -> list[int]:
        """Of each row's slot, how many pages its call looks at."""
        needed = [pages_for(row.length + 1) for row in rows]
        if self._device.type != "cuda" and not self.is_batch_invariant:
            return [max(needed)] * len(rows)
        counts = self._page_counts()
        return [counts[bisect_left(counts, pages)] for pages in needed]

    def _hidden(self, rows: Sequence[StepRow]) -> Tensor:
        """The talker's hidden states [len(rows), hidden size]; streams of like length together."""
        pages = self._pages(rows)
        ordered = sorted(range(len(rows)), key=pages.__getitem__)
        hidden = torch.empty_like(self.parts.code_rows[: len(rows)])
        for count, group in groupby(ordered, key=pages.__getitem__):
            alike = list(group)
            most = self._most_at_once(count)
            for indices in (alike[begin : begin + most] for begin in range(0, len(alike), most)):
                streams = [rows[index] for index in indices]
                part = self.parts.decode(
                    self._batched([row.slot for row in streams]),
                    self._batched([row.text_id for row in streams]),
                    self._batched([row.length for row in streams]),
                    self._batched([row.position for row in streams], torch.float32),
                    pages=count,
                )[: len(streams)]
                if len(streams) == len(rows):
                    return part
                # At once: the next call of this shape is put in the same place.
                hidden.index_copy_(0, to_device(indices, self._device), part)
        return hidden

    def _most_at_once(self, pages: int) -> int:
        """Of how many streams so many pages are looked at in one call: what the memory plan has room for."""
        if not self._step_pages:
            return self._most
        return max(batch for batch in BATCHES if batch == 1 or batch * pages <= self._step_pages)

    def _speech(self, rows: Sequence[StepRow], codes: Tensor) -> list[tuple[list[int], Tensor]]:
        """Samples [streams, samples] of the rows with these indices. Streams that begin go apart: their frame gives
        fewer."""
        groups: list[tuple[list[int], Tensor]] = []
        stages = [min(row.frames, self.parts.settled_frames) for row in rows]
        for seen in sorted(set(stages)):
            indices = [index for index, stage in enumerate(stages) if stage == seen]
            slots = self._batched([rows[index].slot for index in indices])
            starts = self._batched([rows[index].frames for index in indices])
            chosen = codes if len(indices) == len(rows) else codes[to_device(indices, self._device)]
            groups.append((indices, self.parts.voice(slots, starts, self._pad(chosen, len(slots)), seen=seen)))
        return groups

    def _filled_up(self, parts: list[Tensor]) -> Tensor:
        """Prefills' rows [slots, rows, width], shorter ones filled up."""
        rows = pad_sequence(parts, batch_first=True)
        return F.pad(rows, (0, 0, 0, max(self._least_rows - rows.shape[1], 0)))

    def _batched(self, values: Sequence[int | float], dtype: torch.dtype = torch.int64) -> Tensor:
        """On the device, filled up with zeros to a batch that there are graphs for."""
        count = self._most if self.is_batch_invariant else len(values)
        if self._device.type == "cuda":
            count = rounded_up(count, BATCHES, BATCHES[-1])
        return to_device([*values, *[0] * (count - len(values))], self._device, dtype)

    def _pad(self, rows: Tensor, count: int) -> Tensor:
        if len(rows) == count:
            return rows
        return torch.cat((rows, rows.new_zeros(count - len(rows), *rows.shape[1:])))
