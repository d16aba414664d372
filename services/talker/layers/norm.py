"""RMS norm in as few of torch's operations as possible."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from services.talker.fusion import is_one_compiled, linear


class RmsNorm:
    """RMS norm with the weight of a module of transformers."""

    def __init__(self, module: Any) -> None:
        self._weight: Tensor = module.weight.detach()
        self._epsilon: float = module.variance_epsilon

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., hidden size] → the same shape; rounded to the model's dtype before the weight, as in transformers."""
        return F.rms_norm(hidden, self._weight.shape, None, self._epsilon) * self._weight

    def linear(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return `linear` of the norm. Compiled for a single vector, it is float32 throughout, and each output computes
        the norm itself, in the kernel that sums it: computing it once, before, is a kernel more."""
        if not is_one_compiled(hidden):
            return linear(self(hidden), weight, bias)
        x, size = hidden.float()[..., None, :], hidden.shape[-1]
        sums = (weight.float() * (x * self._weight.float())).sum(-1)
        squares = (x * x).expand(*sums.shape, size).sum(-1)
        sums = (sums * torch.rsqrt(squares / size + self._epsilon)).to(hidden.dtype)
        return sums if bias is None else sums + bias
