"""CUDA graphs: a step launched whole. Otherwise a GPU waits while Python launches it kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from services.talker.cuda_stream import CudaStream

# Batches are padded to one of these sizes, so that few graphs serve all.
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def rounded_up(count: int, steps: tuple[int, ...], most: int) -> int:
    """Return the smallest of `steps` that is at least `count`, and at most `most`."""
    return min(next((step for step in steps if step >= count), most), most)


def shape_of_call(tensors: Sequence[Tensor], numbers: dict[str, int]) -> Hashable:
    """Return the key of a capture: calls with equal keys can share one."""
    return (*(tuple(tensor.shape) for tensor in tensors), *sorted(numbers.items()))


@dataclass(frozen=True)
class _Captured:
    graph: Any
    static_inputs: tuple[Tensor, ...]
    output: Tensor


class GraphedCall:
    """`function(*tensors, **numbers)` as a CUDA graph: one for each shape and number.

    Without a CUDA stream it is the plain function; with one, always call it in that stream. The function must not need
    a tensor's value on the host. All zeros must be harmless inputs, as a capture runs on them (slot 0 and block 0 are
    scratch for this). The next call of the same shape overwrites the output.
    """

    def __init__(self, function: Callable[..., Tensor], cuda_stream: CudaStream | None) -> None:
        """cuda_stream: None if the function cannot be captured. On a CPU there are no graphs."""
        self._function = function
        self._cuda_stream = cuda_stream if cuda_stream is not None and cuda_stream.stream is not None else None
        self._captured: dict[Hashable, _Captured] = {}

    def __call__(self, *tensors: Tensor, **numbers: int) -> Tensor:
        if self._cuda_stream is None:
            return self._function(*tensors, **numbers)
        key = shape_of_call(tensors, numbers)
        captured = self._captured.get(key)
        if captured is None:
            captured = self._captured[key] = self._capture(self._cuda_stream, tensors, numbers)
        for static_input, given in zip(captured.static_inputs, tensors, strict=True):
            static_input.copy_(given, non_blocking=True)
        captured.graph.replay()
        return captured.output

    def _capture(self, cuda_stream: CudaStream, tensors: tuple[Tensor, ...], numbers: dict[str, int]) -> _Captured:
        inputs = tuple(torch.zeros_like(tensor) for tensor in tensors)
        current = torch.cuda.current_stream()
        with torch.cuda.stream(cuda_stream.capture_stream):
            cuda_stream.capture_stream.wait_stream(current)
            # Twice: what libraries set up at first use must not be in the graph.
            self._function(*inputs, **numbers)
            example = self._function(*inputs, **numbers)
        current.wait_stream(cuda_stream.capture_stream)
        # Outside the pool: memory in the pool may be shared with a graph that was captured before this one. Replaying
        # that graph before this one's output is read would overwrite the output.
        output = torch.empty_like(example)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=cuda_stream.graph_pool, stream=cuda_stream.capture_stream):
            output.copy_(self._function(*inputs, **numbers))
        return _Captured(graph, inputs, output)
