"""Fusion: on a GPU, torch.compile fuses the operations between two matrix products into one kernel.

The same code runs as it stands on a CPU. A step of one stream is hundreds of small operations; on a GPU most of its
time is starting them, not reading weights.

Two switches of torch's compiler are off, as no GPU has shown a gain from them yet. Its own environment variables set
them: TORCHINDUCTOR_ENABLE_PDL=1 and TORCHINDUCTOR_COORDINATE_DESCENT_TUNING=1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

# A call compiles once for each kind of layer, for a batch of 1 and for more; torch's own limit catches accidents.
_MOST_VARIANTS = 64
_FEW_SCORES = 256


T = TypeVar("T")


class FusedCall(Generic[T]):
    """`function(owner, *tensors, **others)`, compiled if enabled.

    tensors: [batch, …] each. One compilation serves a batch of 1, another all larger batches, unless the function
    itself branches on the batch; every other size is fixed. owner, which holds weights and buffers, and others are
    constants: owners with tensors of equal shapes share a compilation. The function must not need a tensor's value on
    the host.
    """

    def __init__(self, function: Callable[..., T], *, enabled: bool) -> None:
        self._function = function
        self._mark_dynamic: Callable[[Tensor, int], None] | None = None
        if enabled:
            from torch._dynamo import config, maybe_mark_dynamic  # slow to import, and only needed for GPUs

            with warnings.catch_warnings(action="ignore"):  # of torch's own use of what it has deprecated
                import_module("torch._inductor.compile_fx")
            # Ignore the advice to round float32's products: they must be exact.
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            config.recompile_limit = _MOST_VARIANTS
            config.automatic_dynamic_shapes = False
            self._function, self._mark_dynamic = torch.compile(function, fullgraph=True), maybe_mark_dynamic

    def __call__(self, owner: object, *tensors: Tensor, **others: Any) -> T:
        if self._mark_dynamic is not None and len(tensors[0]) > 1:
            for tensor in tensors:
                self._mark_dynamic(tensor, 0)
        return self._function(owner, *tensors, **others)


def is_one_compiled(x: Tensor) -> bool:
    """Whether this is being compiled for a single vector [..., width]. Then products and sums, which fuse with the
    operations around them, are faster than a matrix product: reading the weights once takes all the time."""
    return torch.compiler.is_compiling() and x.numel() == x.shape[-1]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear; compiled for a single vector, products and sums in float32."""
    if not is_one_compiled(x):
        return torch.nn.functional.linear(x, weight, bias)
    sums = matvec(weight, x)
    return sums if bias is None else sums + bias


def matvec(weights: Tensor, x: Tensor) -> Tensor:
    """weights [..., outputs, inputs] and x [..., inputs] → [..., outputs]; meant to be compiled."""
    return (weights.float() * x.float()[..., None, :]).sum(-1).to(x.dtype)


def topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """torch.topk: scores [batch, n] → the `count` highest and their indices, in descending order. Compiled for a batch
    of 1, or for few scores, it ranks each score instead, as topk is several kernels that wait for each other."""
    width = scores.shape[-1]
    if not torch.compiler.is_compiling() or not (width <= _FEW_SCORES or is_one_compiled(scores)):
        return scores.topk(count)
    scores = scores.masked_fill(scores.isnan(), -torch.inf)  # so that each score has a rank
    indices = torch.arange(width, device=scores.device)
    one, other = scores[:, :, None], scores[:, None, :]
    ranks = ((other > one) | ((other == one) & (indices < indices[:, None]))).sum(-1)
    is_at = ranks[:, None, :] == torch.arange(count, device=scores.device)[:, None]
    return torch.where(is_at, other, 0.0).sum(-1), torch.where(is_at, indices, 0).sum(-1)


def materialize(tensor: Tensor) -> Tensor:
    """Write the tensor to memory here if compiled; otherwise each of its users computes it again."""
    return tensor.as_strided(tensor.shape, tensor.stride()) if torch.compiler.is_compiling() else tensor
