"""Self-attention over keys and values that the caller keeps, from the weights of transformers' attention modules."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor, nn


def pack_linears(*linears: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """One weight [sum of outputs, inputs] and bias for all; the modules' own parameters become views of them."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biases = [cast("Tensor | None", linear.bias) for linear in linears]
    bias = torch.cat([each.detach() for each in biases if each is not None]) if biases[0] is not None else None
    start = 0
    for linear in linears:
        end = start + linear.out_features
        linear.weight.data = weight[start:end]
        if bias is not None:
            linear.bias.data = bias[start:end]
        start = end
    return weight, bias


class Rotary:
    """Rotary position embedding whose three axes agree, as they do for all that the talker generates."""

    def __init__(self, module: Any) -> None:
        self._frequencies: Tensor = module.inv_freq.float()
        self._scaling: float = module.attention_scaling

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """positions [...] → the tables that `rotate` takes, each [..., 1, head size]."""
        angles = positions[..., None, None].float() * self._frequencies
        return rotation(angles.cos() * self._scaling, angles.sin() * self._scaling, dtype)


def rotation(cos: Tensor, sin: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """From halves [..., head size / 2] to the tables that `rotate` takes."""
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def rotate(heads: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """heads [..., heads, head size]. The same products as transformers' rotate_half, its sign kept in the table."""
    cos, signed_sin = table
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), signed_sin)


class SelfAttention:
    """Projections of one layer. Norms of queries and keys are taken where the module has them."""

    def __init__(self, module: Any) -> None:
        self.head_size: int = module.head_dim
        self.kv_heads: int = module.k_proj.out_features // self.head_size
        self.heads: int = module.q_proj.out_features // self.head_size
        self._weight, self._bias = pack_linears(module.q_proj, module.k_proj, module.v_proj)
        self._output: nn.Linear = module.o_proj
        self._norm: Tensor | None = None
        if not isinstance(module.q_norm, nn.Identity):
            rows = [module.q_norm.weight.detach()] * self.heads + [module.k_norm.weight.detach()] * self.kv_heads
            self._norm = torch.stack(rows)
            self._epsilon: float = module.q_norm.variance_epsilon

    def project(self, hidden: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """hidden [..., hidden size] → queries [..., heads, head size], keys and values [..., kv heads, head size]."""
        packed = F.linear(hidden, self._weight, self._bias)
        packed = packed.view(*hidden.shape[:-1], self.heads + 2 * self.kv_heads, self.head_size)
        turned = packed[..., : self.heads + self.kv_heads, :]
        if self._norm is not None:
            turned = F.rms_norm(turned, (self.head_size,), None, self._epsilon) * self._norm
        turned = rotate(turned, table)
        return turned[..., : self.heads, :], turned[..., self.heads :, :], packed[..., self.heads + self.kv_heads :, :]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """The layer's output [batch, n, hidden size].

        queries [batch, n, heads, head size]; keys and values [batch, length, kv heads, head size]; mask bool
        [batch or 1, n, length], true where a query sees a key, None = everywhere.
        """
        batch, n = queries.shape[:2]
        group = self.heads // self.kv_heads
        if n == 1:
            rows = queries.view(batch, self.kv_heads, group, self.head_size)
            mask = None if mask is None else mask[:, None].expand(-1, -1, group, -1)
            out = F.scaled_dot_product_attention(rows, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask)
            return self._output(out.reshape(batch, 1, self.heads * self.head_size))
        # Queries that share a key head stand beside each other, so that no key is copied for them.
        rows = queries.view(batch, n, self.kv_heads, group, self.head_size).permute(0, 2, 3, 1, 4)
        rows = rows.reshape(batch, self.kv_heads, group * n, self.head_size)
        if mask is not None:
            mask = mask[:, None, None].expand(-1, -1, group, -1, -1).reshape(mask.shape[0], 1, group * n, -1)
        out = F.scaled_dot_product_attention(rows, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask)
        out = out.view(batch, self.kv_heads, group, n, self.head_size).permute(0, 3, 1, 2, 4)
        return self._output(out.reshape(batch, n, self.heads * self.head_size))
