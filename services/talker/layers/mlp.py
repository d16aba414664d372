"""Feed-forward blocks: the gated MLP, and the talker's mixture of experts beside a shared one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from services.talker.fusion import highest, is_one_compiled, linear, row_products, stored
from services.talker.layers.attention import pack_linears
from services.talker.layers.norm import RmsNorm


class GatedMlp:
    """down(act(gate(x)) * up(x))."""

    def __init__(self, module: Any) -> None:
        self._gate_up, _ = pack_linears(module.gate_proj, module.up_proj)
        self._down: Tensor = module.down_proj.weight
        self._act: Callable[[Tensor], Tensor] = module.act_fn

    def __call__(self, hidden: Tensor, norm: RmsNorm | None = None) -> Tensor:
        """[..., hidden size], before its norm where one is given → the same."""
        into = linear if norm is None else norm.linear
        if is_one_compiled(hidden):  # in one kernel with what follows them
            gate, up = (into(hidden, weight) for weight in self._gate_up.chunk(2))
        else:
            gate, up = into(hidden, self._gate_up).chunk(2, dim=-1)
        return linear(stored(self._act(gate) * up), self._down)


class SparseMlp:
    """Routed experts plus the gated shared expert. No value leaves the device, so a CUDA graph can hold it."""

    def __init__(self, module: Any) -> None:
        self._router: Any = module.gate
        self._shared = GatedMlp(module.shared_expert)
        self._shared_gate: Tensor = module.shared_expert_gate.weight
        self._gate_up: Tensor = module.experts.gate_up_proj
        self._down: Tensor = module.experts.down_proj
        self._act: Callable[[Tensor], Tensor] = module.experts.act_fn
        self._experts = len(self._gate_up)
        self._groups_on_device = groups_on_device(self._gate_up.device)

    def __call__(self, hidden: Tensor) -> Tensor:
        """[rows, hidden size] → the same."""
        weights, chosen = self._route(hidden)
        # Where few experts are hit, theirs alone are read; where most are, each is read once for all its rows.
        if chosen.numel() <= self._experts:
            routed = self._gathered(hidden, chosen)
        elif torch.compiler.is_compiling() and not self._groups_on_device:
            routed = self._dense(hidden, chosen)
        else:
            routed = self._grouped(hidden, chosen)
        mixed = (routed * weights[..., None]).sum(1)
        return mixed + torch.sigmoid(linear(hidden, self._shared_gate)) * self._shared(hidden)

    def _route(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and ids of each row's experts, each [rows, k], as transformers' router gives them."""
        shares = linear(hidden, self._router.weight).softmax(-1, dtype=torch.float32)
        weights, chosen = highest(shares, self._router.top_k)
        if self._router.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights.to(hidden.dtype), chosen

    def _gathered(self, hidden: Tensor, chosen: Tensor) -> Tensor:
        """[rows, hidden size] and expert ids [rows, k] → [rows, k, hidden size]."""
        rows, count = chosen.shape
        if torch.compiler.is_compiling():  # no expert's weights are copied: they are read where they lie
            gate, up = (row_products(part[chosen], hidden[:, None]) for part in self._gate_up.chunk(2, dim=1))
            return row_products(self._down[chosen], stored(self._act(gate) * up))
        flat = chosen.reshape(-1)
        repeated = hidden.repeat_interleave(count, dim=0)[..., None]
        gate, up = torch.bmm(self._gate_up[flat], repeated)[..., 0].chunk(2, dim=-1)
        out = torch.bmm(self._down[flat], (self._act(gate) * up)[..., None])
        return out.view(rows, count, -1)

    def _grouped(self, hidden: Tensor, chosen: Tensor) -> Tensor:
        """The same, sorted by expert."""
        rows, count = chosen.shape
        ordered, order = chosen.reshape(-1).sort(stable=True)
        ends = torch.searchsorted(ordered, torch.arange(self._experts, device=hidden.device), right=True).int()
        inputs = hidden[order // count]
        gate, up = F.grouped_mm(inputs, self._gate_up.transpose(-2, -1), offs=ends).chunk(2, dim=-1)
        out = F.grouped_mm(self._act(gate) * up, self._down.transpose(-2, -1), offs=ends)
        return torch.empty_like(out).index_copy_(0, order, out).view(rows, count, -1)

    def _dense(self, hidden: Tensor, chosen: Tensor) -> Tensor:
        """The same, by every expert for every row: up to some hundred rows reading the weights takes longer."""
        rows = len(hidden)
        gate, up = linear(hidden, self._gate_up.flatten(0, 1)).view(rows, self._experts, -1).chunk(2, dim=-1)
        out = torch.bmm((self._act(gate) * up).transpose(0, 1), self._down.transpose(1, 2))
        return out[chosen, torch.arange(rows, device=hidden.device)[:, None]]


def groups_on_device(device: torch.device) -> bool:
    """Whether torch's grouped product in bfloat16 leaves the groups' sizes on the device, as a CUDA graph needs it:
    on Hopper and Blackwell (sm_90, sm_100) it does, elsewhere it asks the host (torch 2.13.0, GroupedMMUtils.h)."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in (9, 10)
