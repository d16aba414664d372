"""Fusion: on a GPU, torch.compile makes one kernel of what lies between two matrix products, from the code a CPU runs.

A step of one stream is hundreds of small operations, each of which a GPU starts for itself: that, not the reading of
weights, is what a step takes there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

# A call compiles once for each kind of layer, for one stream and for more; torch's own limit is meant for accidents.
_MOST_VARIANTS = 64
_FEW_SCORES = 256


T = TypeVar("T")


class FusedCall(Generic[T]):
    """`function(owner, *tensors, **others)`; where enabled, compiled.

    tensors: [batch, …] each. What is compiled for one stream serves one, what is compiled for more serves any number,
    but where the function itself does otherwise from some number on; each other size is fixed. owner, which holds
    weights and buffers, and others are taken as they are: owners whose tensors have equal shapes share what was
    compiled. The function must not need a tensor's value on the host.
    """

    def __init__(self, function: Callable[..., T], *, enabled: bool) -> None:
        self._function = function
        self._leave_open: Callable[[Tensor, int], None] | None = None
        if enabled:
            from torch._dynamo import config, maybe_mark_dynamic  # heavy, and for GPUs alone

            with warnings.catch_warnings(action="ignore"):  # of torch's own use of what it has deprecated
                import_module("torch._inductor.compile_fx")
            # The advice to round float32's products is not wanted: they are to be exact.
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            config.recompile_limit = _MOST_VARIANTS
            config.automatic_dynamic_shapes = False
            self._function, self._leave_open = torch.compile(function, fullgraph=True), maybe_mark_dynamic

    def __call__(self, owner: object, *tensors: Tensor, **others: Any) -> T:
        if self._leave_open is not None and len(tensors[0]) > 1:
            for tensor in tensors:
                self._leave_open(tensor, 0)
        return self._function(owner, *tensors, **others)


def is_one_compiled(rows: Tensor) -> bool:
    """Whether this is being compiled for a single row [..., width]: then products and sums, which fuse with what stands
    around them, are quicker than a matrix product, for reading the weights once is all that it takes."""
    return torch.compiler.is_compiling() and rows.numel() == rows.shape[-1]


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear; for a single row as said above, added up in float32."""
    if not is_one_compiled(rows):
        return torch.nn.functional.linear(rows, weight, bias)
    sums = row_products(weight, rows)
    return sums if bias is None else sums + bias


def row_products(weights: Tensor, rows: Tensor) -> Tensor:
    """weights [..., outputs, inputs] and rows [..., inputs] → [..., outputs]; meant to be compiled."""
    return (weights.float() * rows.float()[..., None, :]).sum(-1).to(rows.dtype)


def highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """scores [batch, n] → the `count` highest and their indices, from the highest down; torch's topk. Compiled for one
    row, or for few scores, by each one's rank, as topk is several kernels that wait for each other."""
    width = scores.shape[-1]
    if not torch.compiler.is_compiling() or not (width <= _FEW_SCORES or is_one_compiled(scores)):
        return scores.topk(count)
    scores = scores.masked_fill(scores.isnan(), -torch.inf)  # so that each has a rank
    indices = torch.arange(width, device=scores.device)
    one, other = scores[:, :, None], scores[:, None, :]
    ranks = ((other > one) | ((other == one) & (indices < indices[:, None]))).sum(-1)
    is_at = ranks[:, None, :] == torch.arange(count, device=scores.device)[:, None]
    return torch.where(is_at, other, 0.0).sum(-1), torch.where(is_at, indices, 0).sum(-1)


def stored(tensor: Tensor) -> Tensor:
    """The tensor; compiled, it is written out here, where each of its users would compute it anew."""
    return tensor.as_strided(tensor.shape, tensor.stride()) if torch.compiler.is_compiling() else tensor
