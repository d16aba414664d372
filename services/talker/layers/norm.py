"""RMS norm in as few operations as torch has for it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor


class RmsNorm:
    """From the weights of a module of transformers, which rounds to the model's dtype before it weighs: so here too."""

    def __init__(self, module: Any) -> None:
        self._weight: Tensor = module.weight.detach()
        self._epsilon: float = module.variance_epsilon

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., hidden size] → the same."""
        return F.rms_norm(hidden, self._weight.shape, None, self._epsilon) * self._weight
