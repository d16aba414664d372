"""RMS norm in as few operations as torch has for it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from services.talker.fusion import is_one_compiled, linear


class RmsNorm:
    """From the weights of a module of transformers."""

    def __init__(self, module: Any) -> None:
        self._weight: Tensor = module.weight.detach()
        self._epsilon: float = module.variance_epsilon

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., hidden size] → the same, rounded to the model's dtype before it is weighed, as in transformers."""
        return F.rms_norm(hidden, self._weight.shape, None, self._epsilon) * self._weight

    def linear(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`linear` of the norm. For a single row, compiled, in float32 throughout, and each output finds the row's size
        for itself, in the kernel that adds it up: to find it once, before, is a kernel more."""
        if not is_one_compiled(hidden):
            return linear(self(hidden), weight, bias)
        row, size = hidden.float()[..., None, :], hidden.shape[-1]
        sums = (weight.float() * (row * self._weight.float())).sum(-1)
        squares = (row * row).expand(*sums.shape, size).sum(-1)
        sums = (sums * torch.rsqrt(squares / size + self._epsilon)).to(hidden.dtype)
        return sums if bias is None else sums + bias
