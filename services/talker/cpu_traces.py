"""Traces: on a CPU, torch runs a step by itself. Otherwise Python launches each operation.

A trace holds the operations of the function for given shapes. None is replaced or fused, so its results are the same
bits. torch calls the tracer deprecated. Of what it names instead, torch.compile needs a C++
compiler at run time, which a server's image does not have, and torch.export stays in Python.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from services.talker.cuda_graphs import shape_of_call

# Traces are of fixed shapes, which is intended. Set once: filters are the process's, and the engine has a thread.
warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)

_USES_BEFORE = 32
"""How often a shape runs untraced before it is worth a trace, which takes up to 0.3 s: it waits for an idle moment."""
_USES_AT_MOST = 1024
"""After so many uses, some ten seconds of speech, a shape is traced at once, in mid-speech."""
_MOST = 8
"""The most traces of a part: each takes 3 to 16 MB, and torch frees none."""
_WIDEST = 16
"""The largest batch that is traced. In larger ones Python is a small part of the time."""


class TracedCall:
    """`function(*tensors, **numbers)` on a CPU, as a trace for each shape and number that comes often.

    Call `trace_one` while nobody speaks, so that no speech stands still while its shapes are traced.

    state: all tensors that change between calls. They must be the tensors that the function uses, not views of them: a
    trace takes all other tensors for constants. All zeros must be harmless inputs, as tracing runs the function on them
    (slot 0 and block 0 are scratch for this).
    """

    def __init__(self, function: Callable[..., Tensor], state: Sequence[Tensor]) -> None:
        self._function, self._state = function, state
        self._uses: Counter[Hashable] = Counter()
        self._traces: dict[Hashable, Any] = {}
        # Shapes worth a trace, with zeros of them.
        self._untraced: dict[Hashable, tuple[tuple[Tensor, ...], dict[str, int]]] = {}

    def __call__(self, *tensors: Tensor, **numbers: int) -> Tensor:
        key = shape_of_call(tensors, numbers)
        trace = self._traces.get(key)
        if trace is None:
            self._note_use(key, tensors, numbers)
            if self._uses[key] <= _USES_AT_MOST or key not in self._untraced:
                return self._function(*tensors, **numbers)
            trace = self._trace(key)
        with torch.jit.optimized_execution(False):
            return trace(*tensors)

    def _note_use(self, key: Hashable, tensors: tuple[Tensor, ...], numbers: dict[str, int]) -> None:
        self._uses[key] += 1
        is_known, count = key in self._untraced, len(self._traces) + len(self._untraced)
        if not is_known and self._uses[key] > _USES_BEFORE and count < _MOST and len(tensors[0]) <= _WIDEST:
            self._untraced[key] = tuple(map(torch.zeros_like, tensors)), numbers

    @property
    def has_untraced(self) -> bool:
        """Whether a shape waits for its trace."""
        return bool(self._untraced)

    def trace_one(self) -> None:
        """Trace a shape that waits for it, if there is one."""
        if self._untraced:
            self._trace(next(iter(self._untraced)))

    def _trace(self, key: Hashable) -> Any:
        zeros, numbers = self._untraced.pop(key)
        self._traces[key] = trace = self.traced(*zeros, **numbers)
        return trace

    def traced(self, *tensors: Tensor, **numbers: int) -> Any:
        """Return a trace for inputs of these shapes."""
        module = _Traceable(self._function, numbers, self._state).eval()
        trace = torch.jit.trace(module, tuple(map(torch.zeros_like, tensors)), check_trace=False)
        # Freezing drops what depends on constants alone: mostly arithmetic of shapes. The state is no constant.
        state = [name for name, _ in module.named_buffers()]
        return torch.jit.freeze(trace, preserved_attrs=state, optimize_numerics=False)


class _Traceable(nn.Module):
    """Holds the state as buffers: a trace can write to no other tensors."""

    def __init__(self, function: Callable[..., Tensor], numbers: dict[str, int], state: Sequence[Tensor]) -> None:
        super().__init__()
        self._function, self._numbers = function, numbers
        for index, tensor in enumerate(state):
            self.register_buffer(f"state_{index}", tensor)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self._function(*tensors, **self._numbers)
