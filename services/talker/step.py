"""One decode step over a batch of streams: its inputs, its outputs, and the step that is in flight on the device."""

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

from services.talker.cuda_stream import to_host
from services.talker.sampling import SamplingParams


@dataclass(frozen=True)
class StepInput:
    """One stream's input to a step: the text token to feed, the tokens in its KV cache (`length`), its next position,
    and the frames made so far."""

    slot: int
    text_id: int
    length: int
    position: float
    frames: int
    sampling: SamplingParams


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step; on a GPU the device's time, not the launches'. step_s: the interval between steps in a row. On
    a GPU it is less than the sum of its parts, as the codec runs beside the next step."""

    talker_s: float
    predictor_s: float
    codec_s: float
    step_s: float


@dataclass(frozen=True)
class StepFrames:
    """codes int64 [batch, codebooks]; samples: float32 for each stream; both in the order of the step's inputs."""

    codes: NDArray[np.int64]
    samples: list[NDArray[np.float32]]
    times: StepTimes


@dataclass(frozen=True)
class StepEvents:
    """Where a step's parts begin and end, as `record_event` returns them."""

    start: Any
    talker_end: Any
    predictor_end: Any
    codec_start: Any
    codec_end: Any


class InFlightStep:
    """A step that was launched. On a GPU it runs while the host does something else; on a CPU it is complete.

    It keeps a reference to tensors that one CUDA stream writes and another reads, so that their memory is not reused.
    """

    def __init__(self, codes: Tensor, samples: Sequence[tuple[Sequence[int], Tensor]], events: StepEvents) -> None:
        """codes int64 [batch, codebooks], on the device; samples: (batch indices, samples [at least as many, n]).
        Construct it in the CUDA stream that all of these are ready in."""
        self._device_codes, self._events = codes, events
        self._codes = to_host(codes)
        self._samples = [(indices, to_host(part)) for indices, part in samples]
        self._end = record_event(codes.device)

    def frames(self) -> StepFrames:
        """Wait for the device, the only time in a step, and return the frames."""
        is_cuda = self._device_codes.device.type == "cuda"
        if is_cuda:
            self._end.synchronize()
        found = {
            index: row for indices, part in self._samples for index, row in zip(indices, part.numpy(), strict=False)
        }
        return StepFrames(
            # Copies: otherwise a slow client's frame keeps the whole step's buffer, which on a GPU is pinned memory.
            self._codes.numpy().copy(),
            [found[index].copy() for index in range(len(self._codes))],
            self._times(max if is_cuda else add),
        )

    def _times(self, combine: Callable[[float, float], float]) -> StepTimes:
        events = self._events
        talker_s = _between(events.start, events.talker_end)
        predictor_s = _between(events.talker_end, events.predictor_end)
        codec_s = _between(events.codec_start, events.codec_end)
        return StepTimes(talker_s, predictor_s, codec_s, combine(talker_s + predictor_s, codec_s))


def record_event(device: torch.device) -> Any:
    """The time now; on a GPU an event on the current stream, which can be read after waiting for it."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: Any, end: Any) -> float:
    return end - begin if isinstance(end, float) else begin.elapsed_time(end) / 1000
