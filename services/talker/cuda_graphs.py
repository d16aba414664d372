"""CUDA graphs: a step that is launched whole, where a GPU would wait for Python to launch it kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Batches are filled up to one of these, and page tables cut to so many pages, so that few graphs serve all.
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PAGES = (8, 32, 128, 512)


def rounded_up(count: int, steps: tuple[int, ...], most: int) -> int:
    """The smallest of `steps` that is at least `count`, but not above `most`."""
    return min(next((step for step in steps if step >= count), most), most)


def use_device(device: torch.device) -> None:
    """Makes it the thread's current one: streams, events and graphs are the current device's, wherever tensors lie."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def shape_of_call(tensors: Sequence[Tensor], numbers: dict[str, int]) -> Hashable:
    """What calls must have in common to be served by one capture."""
    return (*(tuple(tensor.shape) for tensor in tensors), *sorted(numbers.items()))


@dataclass(frozen=True)
class _Captured:
    graph: Any
    inputs: tuple[Tensor, ...]
    output: Tensor


class GraphedCall:
    """`function(*tensors, **numbers)`; where enabled, as a CUDA graph, one for each shape and number that it is given.

    The function must not need a tensor's value on the host, and all zeros must be harmless inputs: a capture runs it
    on them (slot 0 and page 0 are scratch for this). The output is overwritten by the next call of the same shape.
    """

    _pool: Any = None
    _warm_up_stream: Any = None

    def __init__(self, function: Callable[..., Tensor], *, enabled: bool) -> None:
        """enabled: on a GPU, where all that the function does can be captured."""
        self._function, self._enabled = function, enabled
        self._captured: dict[Hashable, _Captured] = {}

    def __call__(self, *tensors: Tensor, **numbers: int) -> Tensor:
        if not self._enabled:
            return self._function(*tensors, **numbers)
        key = shape_of_call(tensors, numbers)
        captured = self._captured.get(key)
        if captured is None:
            captured = self._captured[key] = self._capture(tensors, numbers)
        for kept, given in zip(captured.inputs, tensors, strict=True):
            kept.copy_(given, non_blocking=True)
        captured.graph.replay()
        return captured.output

    def _capture(self, tensors: tuple[Tensor, ...], numbers: dict[str, int]) -> _Captured:
        inputs = tuple(torch.zeros_like(tensor) for tensor in tensors)
        if GraphedCall._pool is None:
            GraphedCall._pool = torch.cuda.graph_pool_handle()
            # One for all: cuBLAS keeps a workspace of tens of megabytes for each stream that it was ever used on.
            GraphedCall._warm_up_stream = torch.cuda.Stream()
        side = GraphedCall._warm_up_stream
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            # Twice: what libraries set up at first use must not be in the graph.
            self._function(*inputs, **numbers)
            example = self._function(*inputs, **numbers)
        torch.cuda.current_stream().wait_stream(side)
        # Outside the pool: there, a graph that was captured before this one works in memory that this one's output may
        # be given, and would overwrite it when it is replayed between this one and whoever reads.
        output = torch.empty_like(example)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=GraphedCall._pool):
            output.copy_(self._function(*inputs, **numbers))
        return _Captured(graph, inputs, output)
