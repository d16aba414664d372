"""Self-attention over the caller's KV cache, from the weights of transformers' attention modules."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor, nn

from services.talker.fusion import linear
from services.talker.layers.norm import RmsNorm

# Compiled, attention over so few keys is products and sums: starting a kernel of its own takes longer than its work.
_FEW_KEYS = 128


def pack_linears(*layers: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """One weight [sum of outputs, inputs] and bias for all; the modules' own parameters become views of them."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    biases = [cast("Tensor | None", layer.bias) for layer in layers]
    bias = torch.cat([each.detach() for each in biases if each is not None]) if biases[0] is not None else None
    start = 0
    for layer in layers:
        end = start + layer.out_features
        layer.weight.data = weight[start:end]
        if bias is not None:
            layer.bias.data = bias[start:end]
        start = end
    return weight, bias


class Rotary:
    """Rotary position embedding with equal positions on all three axes, as all generated tokens have."""

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
    """Projections of one layer, with the norms of queries and keys if the module has them."""

    def __init__(self, module: Any) -> None:
        self.head_size: int = module.head_dim
        self.kv_heads: int = module.k_proj.out_features // self.head_size
        self.heads: int = module.q_proj.out_features // self.head_size
        self._weight, self._bias = pack_linears(module.q_proj, module.k_proj, module.v_proj)
        self._output: nn.Linear = module.o_proj
        self._norm: Tensor | None = None
        if not isinstance(module.q_norm, nn.Identity):
            weights = [module.q_norm.weight.detach()] * self.heads + [module.k_norm.weight.detach()] * self.kv_heads
            self._norm = torch.stack(weights)
            self._epsilon: float = module.q_norm.variance_epsilon

    def project(self, hidden: Tensor, norm: RmsNorm, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """hidden [..., hidden size], before its norm → queries [..., heads, head size], and keys and values in one
        tensor, as caches hold them: [..., 2, kv heads, head size]."""
        packed = norm.linear(hidden, self._weight, self._bias)
        packed = packed.view(*hidden.shape[:-1], self.heads + 2 * self.kv_heads, self.head_size)
        rotated = packed[..., : self.heads + self.kv_heads, :]
        if self._norm is not None:
            rotated = F.rms_norm(rotated, (self.head_size,), None, self._epsilon) * self._norm
        rotated = rotate(rotated, table)
        kv = torch.cat((rotated[..., self.heads :, :], packed[..., self.heads + self.kv_heads :, :]), -2)
        return rotated[..., : self.heads, :], kv.unflatten(-2, (2, self.kv_heads))

    def attend(self, queries: Tensor, kv: Tensor, mask: Tensor) -> Tensor:
        """Return the heads' output [batch, n, heads * head size], before the output projection.

        queries [batch, n, heads, head size]; kv [batch, length, 2, kv heads, head size], as `project` returns it; mask
        [batch or 1, n, length], as `attention_mask` returns it.
        """
        batch, n = queries.shape[:2]
        group = self.heads // self.kv_heads
        keys, values = kv.unbind(2)
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        if n == 1:
            grouped = queries.reshape(batch, self.kv_heads, group, self.head_size)
            mask = mask[:, None].expand(-1, -1, group, -1)
            few = torch.compiler.is_compiling() and kv.shape[1] <= _FEW_KEYS
            attend = _attend_few if few else _attend
            return attend(grouped, keys, values, mask).reshape(batch, 1, self.heads * self.head_size)
        # Queries that share a key head are put side by side, so that no key is copied for them.
        grouped = queries.view(batch, n, self.kv_heads, group, self.head_size).permute(0, 2, 3, 1, 4)
        grouped = grouped.reshape(batch, self.kv_heads, group * n, self.head_size)
        mask = mask[:, None, None].expand(-1, -1, group, -1, -1).reshape(mask.shape[0], 1, group * n, -1)
        attn_output = _attend(grouped, keys, values, mask).view(batch, self.kv_heads, group, n, self.head_size)
        return attn_output.permute(0, 3, 1, 2, 4).reshape(batch, n, self.heads * self.head_size)

    def output(self, attn_output: Tensor) -> Tensor:
        """[..., heads * head size] → [..., hidden size]."""
        return linear(attn_output, self._output.weight, self._output.bias)


def attention_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive mask: 0 where `mask` is true, else minus infinity. Made once a step, for all layers."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """queries [batch, kv heads, group, head size], keys and values [batch, kv heads, length, head size]."""
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def _attend_few(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """`_attend` by products and sums, in float32."""
    scores = (queries.float()[..., None, :] * keys.float()[:, :, None]).sum(-1) * queries.shape[-1] ** -0.5
    scores = scores + mask
    if len(queries) > 1:
        return (scores.softmax(-1)[..., None] * values.float()[:, :, None]).sum(-2).to(queries.dtype)
    # Each output computes the softmax itself, in the kernel that sums it: computing it once, before, is a kernel more.
    scores = scores[..., None, :].expand(-1, -1, -1, queries.shape[-1], -1)
    shares = (scores - scores.amax(-1, keepdim=True)).exp()
    attn_output = (shares * values.float().transpose(-1, -2)[:, :, None]).sum(-1)
    return (attn_output / shares.sum(-1)).to(queries.dtype)
