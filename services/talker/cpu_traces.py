"""Traces: on a CPU, a step that torch runs through by itself, where Python would hand it operation by operation.

A trace holds the very operations that the function makes on its shapes, unoptimized, so its bits are the function's.
torch calls the tracer deprecated; what it names instead (torch.compile, torch.export) needs a C++ compiler where it
runs, which a server's image has not, or stays in Python.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from services.talker.cuda_graphs import shape_of_call

_USES_BEFORE = 32
"""So often a shape is run as it is before it is traced, which takes some 0.2 s."""
_MOST = 8
"""So many shapes of a part are traced, those that come often first: a trace takes 4 to 18 MB, and torch frees none."""
_WIDEST = 16
"""Larger batches are run as they are: their operations are long beside what Python adds to them."""


class TracedCall:
    """`function(*tensors, **numbers)` on a CPU; as a trace for each shape and number that comes often.

    state: all tensors that the function writes to, or that change otherwise from call to call; they must be the very
    tensors that it uses (views of them it makes anew), for a trace takes what it is not told of for constant. All zeros
    must be harmless inputs: a trace is made by running the function on them (slot 0 and page 0 are scratch for this).
    """

    def __init__(self, function: Callable[..., Tensor], state: Sequence[Tensor]) -> None:
        self._function, self._state = function, state
        self._uses: Counter[Hashable] = Counter()
        self._traces: dict[Hashable, Any] = {}

    def __call__(self, *tensors: Tensor, **numbers: int) -> Tensor:
        key = shape_of_call(tensors, numbers)
        trace = self._traces.get(key)
        if trace is None:
            self._uses[key] += 1
            if self._uses[key] <= _USES_BEFORE or len(self._traces) >= _MOST or len(tensors[0]) > _WIDEST:
                return self._function(*tensors, **numbers)
            trace = self._traces[key] = self.traced(*tensors, **numbers)
        with torch.jit.optimized_execution(False):
            return trace(*tensors)

    def traced(self, *tensors: Tensor, **numbers: int) -> Any:
        """A trace for inputs of these shapes."""
        module = _Traceable(self._function, numbers, self._state)
        with warnings.catch_warnings(action="ignore"):  # that the shapes are fixed, which is meant; deprecation
            return torch.jit.trace(module, tuple(map(torch.zeros_like, tensors)), check_trace=False)


class _Traceable(nn.Module):
    """Holds the state as buffers, which are what a trace may write to."""

    def __init__(self, function: Callable[..., Tensor], numbers: dict[str, int], state: Sequence[Tensor]) -> None:
        super().__init__()
        self._function, self._numbers = function, numbers
        for index, tensor in enumerate(state):
            self.register_buffer(f"state_{index}", tensor)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self._function(*tensors, **self._numbers)
