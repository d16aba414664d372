"""Traces: on a CPU, torch runs a step by itself. Otherwise Python launches each operation.

A trace holds the operations of the function for given shapes, unoptimized, so its results are the same bits. torch
calls the tracer deprecated. Of what it names instead, torch.compile needs a C++ compiler at run time, which a server's
image does not have, and torch.export stays in Python.
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
"""How often a shape runs untraced before it is traced, which takes some 0.2 s."""
_MOST = 8
"""The most traces of a part: each takes 4 to 18 MB, and torch frees none."""
_WIDEST = 16
"""The largest batch that is traced. In larger ones Python is a small part of the time."""


class TracedCall:
    """`function(*tensors, **numbers)` on a CPU, as a trace for each shape and number that comes often.

    state: all tensors that change between calls. They must be the tensors that the function uses, not views of them: a
    trace takes all other tensors for constants. All zeros must be harmless inputs, as tracing runs the function on them
    (slot 0 and block 0 are scratch for this).
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
        """Return a trace for inputs of these shapes."""
        module = _Traceable(self._function, numbers, self._state)
        with warnings.catch_warnings(action="ignore"):  # of fixed shapes, which is intended, and of deprecation
            return torch.jit.trace(module, tuple(map(torch.zeros_like, tensors)), check_trace=False)


class _Traceable(nn.Module):
    """Holds the state as buffers: a trace can write to no other tensors."""

    def __init__(self, function: Callable[..., Tensor], numbers: dict[str, int], state: Sequence[Tensor]) -> None:
        super().__init__()
        self._function, self._numbers = function, numbers
        for index, tensor in enumerate(state):
            self.register_buffer(f"state_{index}", tensor)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self._function(*tensors, **self._numbers)
