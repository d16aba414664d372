"""CUDA graphs: a step that is launched whole, where a GPU would wait for Python to launch it kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from services.talker.lanes import Lane

# Batches are filled up to one of these, and page tables cut to so many pages, so that few graphs serve all.
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PAGES = (8, 32, 128, 512)


def rounded_up(count: int, steps: tuple[int, ...], most: int) -> int:
    """The smallest of `steps` that is at least `count`, but not above `most`."""
    return min(next((step for step in steps if step >= count), most), most)


def shape_of_call(tensors: Sequence[Tensor], numbers: dict[str, int]) -> Hashable:
    """What calls must have in common to be served by one capture."""
    return (*(tuple(tensor.shape) for tensor in tensors), *sorted(numbers.items()))


@dataclass(frozen=True)
class _Captured:
    graph: Any
    inputs: tuple[Tensor, ...]
    output: Tensor


class GraphedCall:
    """`function(*tensors, **numbers)`; where it has a lane, in which it is always called then, as a CUDA graph: one for
    each shape and number that it is given.

    The function must not need a tensor's value on the host, and all zeros must be harmless inputs: a capture runs it
    on them (slot 0 and page 0 are scratch for this). The output is overwritten by the next call of the same shape.
    """

    def __init__(self, function: Callable[..., Tensor], lane: Lane | None) -> None:
        """lane: None where not all that the function does can be captured; a CPU's has no graphs."""
        self._function = function
        self._lane = lane if lane is not None and lane.stream is not None else None
        self._captured: dict[Hashable, _Captured] = {}

    def __call__(self, *tensors: Tensor, **numbers: int) -> Tensor:
        if self._lane is None:
            return self._function(*tensors, **numbers)
        key = shape_of_call(tensors, numbers)
        captured = self._captured.get(key)
        if captured is None:
            captured = self._captured[key] = self._capture(self._lane, tensors, numbers)
        for kept, given in zip(captured.inputs, tensors, strict=True):
            kept.copy_(given, non_blocking=True)
        captured.graph.replay()
        return captured.output

    def _capture(self, lane: Lane, tensors: tuple[Tensor, ...], numbers: dict[str, int]) -> _Captured:
        inputs = tuple(torch.zeros_like(tensor) for tensor in tensors)
        current = torch.cuda.current_stream()
        with torch.cuda.stream(lane.capture_stream):
            lane.capture_stream.wait_stream(current)
            # Twice: what libraries set up at first use must not be in the graph.
            self._function(*inputs, **numbers)
            example = self._function(*inputs, **numbers)
        current.wait_stream(lane.capture_stream)
        # Outside the pool: there, a graph that was captured before this one works in memory that this one's output may
        # be given, and would overwrite it when it is replayed between this one and whoever reads.
        output = torch.empty_like(example)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=lane.graph_pool, stream=lane.capture_stream):
            output.copy_(self._function(*inputs, **numbers))
        return _Captured(graph, inputs, output)
