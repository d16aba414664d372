"""Feed-forward blocks: the gated MLP, and the talker's mixture of experts beside a shared one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from services.talker.fusion import is_one_compiled, linear, materialize, matvec, topk
from services.talker.layers.attention import pack_linears
from services.talker.layers.norm import RmsNorm


class GatedMlp:
    """down(act(gate(x)) * up(x))."""

    def __init__(self, module: Any) -> None:
        self._gate_up, _ = pack_linears(module.gate_proj, module.up_proj)
        self._down: Tensor = module.down_proj.weight
        self._act: Callable[[Tensor], Tensor] = module.act_fn

    def __call__(self, hidden: Tensor, norm: RmsNorm | None = None) -> Tensor:
        """[..., hidden size], before `norm` if one is given → [..., hidden size]."""
        project = linear if norm is None else norm.linear
        if is_one_compiled(hidden):  # fused with the operations that follow
            gate, up = (project(hidden, weight) for weight in self._gate_up.chunk(2))
        else:
            gate, up = project(hidden, self._gate_up).chunk(2, dim=-1)
        return linear(materialize(self._act(gate) * up), self._down)


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
        """[tokens, hidden size] → [tokens, hidden size]."""
        weights, chosen = self._route(hidden)
        # With few chosen experts read only theirs; with many read each once for all its tokens.
        if chosen.numel() <= self._experts:
            routed = self._gathered(hidden, chosen)
        elif torch.compiler.is_compiling() and not self._groups_on_device:
            routed = self._dense(hidden, chosen)
        else:
            routed = self._grouped(hidden, chosen)
        mixed = (routed * weights[..., None]).sum(1)
        return mixed + torch.sigmoid(linear(hidden, self._shared_gate)) * self._shared(hidden)

    def _route(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights and ids of each token's experts, each [tokens, k], as transformers' router does."""
        shares = linear(hidden, self._router.weight).softmax(-1, dtype=torch.float32)
        weights, chosen = topk(shares, self._router.top_k)
        if self._router.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights.to(hidden.dtype), chosen

    def _gathered(self, hidden: Tensor, chosen: Tensor) -> Tensor:
        """[tokens, hidden size] and expert ids [tokens, k] → [tokens, k, hidden size], gathering the experts'
        weights."""
        tokens, count = chosen.shape
        if torch.compiler.is_compiling():  # reads the experts' weights in place, without a copy
            gate, up = (matvec(part[chosen], hidden[:, None]) for part in self._gate_up.chunk(2, dim=1))
            return matvec(self._down[chosen], materialize(self._act(gate) * up))
        flat = chosen.reshape(-1)
        repeated = hidden.repeat_interleave(count, dim=0)[..., None]
        gate, up = torch.bmm(self._gate_up[flat], repeated)[..., 0].chunk(2, dim=-1)
        out = torch.bmm(self._down[flat], (self._act(gate) * up)[..., None])
        return out.view(tokens, count, -1)

    def _grouped(self, hidden: Tensor, chosen: Tensor) -> Tensor:
        """`_gathered` by a grouped product, with tokens sorted by expert."""
        tokens, count = chosen.shape
        ordered, order = chosen.reshape(-1).sort(stable=True)
        ends = torch.searchsorted(ordered, torch.arange(self._experts, device=hidden.device), right=True).int()
        inputs = hidden[order // count]
        gate, up = F.grouped_mm(inputs, self._gate_up.transpose(-2, -1), offs=ends).chunk(2, dim=-1)
        out = F.grouped_mm(self._act(gate) * up, self._down.transpose(-2, -1), offs=ends)
        return torch.empty_like(out).index_copy_(0, order, out).view(tokens, count, -1)

    def _dense(self, hidden: Tensor, chosen: Tensor) -> Tensor:
        """`_gathered` by running every expert on every token: up to some hundred tokens, reading the weights takes
        longer."""
        tokens = len(hidden)
        gate, up = linear(hidden, self._gate_up.flatten(0, 1)).view(tokens, self._experts, -1).chunk(2, dim=-1)
        out = torch.bmm((self._act(gate) * up).transpose(0, 1), self._down.transpose(1, 2))
        return out[chosen, torch.arange(tokens, device=hidden.device)[:, None]]


def groups_on_device(device: torch.device) -> bool:
    """Whether torch's grouped product in bfloat16 keeps the groups' sizes on the device, as a CUDA graph needs: on
    Hopper and Blackwell (sm_90, sm_100) it does, elsewhere it reads them on the host (torch 2.13.0,
    GroupedMMUtils.h)."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in (9, 10)
