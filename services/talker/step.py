"""A step of all its streams: what it is given, what it gives, and the one that has been begun and not been read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.talker.lanes import to_host
from services.talker.sampling import SamplingParams


@dataclass(frozen=True)
class StepRow:
    """One stream's part in a step: the talker hears `text_id`; `length` rows of it are in the cache, `frames` frames
    were made before."""

    slot: int
    text_id: int
    length: int
    position: float
    frames: int
    sampling: SamplingParams


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step; on a GPU the device's, not the launches'. step_s: what each takes where one follows another:
    on a GPU less than its parts together, as the codec works beside the next step."""

    talker_s: float
    predictor_s: float
    codec_s: float
    step_s: float


@dataclass(frozen=True)
class StepFrames:
    """codes int64 [batch, codebooks]; samples: each stream's, float32; both in the rows' order."""

    codes: NDArray[np.int64]
    samples: list[NDArray[np.float32]]
    times: StepTimes


@dataclass(frozen=True)
class StepMarks:
    """Where a step's parts began and ended, as `mark` gives it."""

    start: Any
    heard: Any
    drawn: Any
    voice_start: Any
    voiced: Any


class StepUnderWay:
    """On a GPU it goes on while its host does something else; on a CPU it is done once it is there.

    It holds what one lane made and another reads: that memory is not given to others before.
    """

    def __init__(self, codes: Tensor, samples: Sequence[tuple[Sequence[int], Tensor]], marks: StepMarks) -> None:
        """codes int64 [batch, codebooks], on the device; samples: of the rows with these indices, [rows or more,
        samples]. To be made in the lane that all of it is there in."""
        self._held, self._marks = codes, marks
        self._codes = to_host(codes)
        self._samples = [(indices, to_host(part)) for indices, part in samples]
        self._end = mark(codes.device)

    def frames(self) -> StepFrames:
        """The step's one wait for the device."""
        is_cuda = self._held.device.type == "cuda"
        if is_cuda:
            self._end.synchronize()
        found = {
            index: row for indices, part in self._samples for index, row in zip(indices, part.numpy(), strict=False)
        }
        return StepFrames(
            # Copies: a slow client's would hold on to those of the whole step, which on a GPU lie in pinned memory.
            self._codes.numpy().copy(),
            [found[index].copy() for index in range(len(self._codes))],
            self._times(max if is_cuda else add),
        )

    def _times(self, together: Callable[[float, float], float]) -> StepTimes:
        marks = self._marks
        talker_s, predictor_s = _between(marks.start, marks.heard), _between(marks.heard, marks.drawn)
        codec_s = _between(marks.voice_start, marks.voiced)
        return StepTimes(talker_s, predictor_s, codec_s, together(talker_s + predictor_s, codec_s))


def mark(device: torch.device) -> Any:
    """Now; on a GPU once the lane has come so far, by the device's clock, to be read after a wait for it."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: Any, end: Any) -> float:
    return end - begin if isinstance(end, float) else begin.elapsed_time(end) / 1000
