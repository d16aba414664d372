"""code2wav's convolutions, chunk by chunk: each keeps the part of its input that its next outputs need.

Columns are the last dimension but one, [batch, columns, channels], so that a convolution is one matrix product over its
taps. `past_columns` counts the columns that a layer took before these; if 0, the stream begins and no state is read.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor, nn

from services.talker.fusion import FusedCall

# On a CPU, from so many columns on, torch's convolution beats a product over copied taps. Not on a GPU: of the released
# model's, cuDNN takes 341 ms for one at 512 streams, and 90 ms for one at 64, where the product takes one.
_LONG = 1024
# torch is slow over short rows: products and elementwise operations should not have shorter ones than this.
_NARROW_PRODUCT, _NARROW_ROW = 16, 128


class CausalConvolution:
    """A causal convolution. Its state is the tail of its input: its receptive field less one."""

    def __init__(self, module: Any, slots: int) -> None:
        conv: nn.Conv1d = module.conv
        self._tail: int = module.padding
        self._taps, self._dilation, self._groups = conv.kernel_size[0], conv.dilation[0], conv.groups
        # [out, taps, in of the group], which both forms below are views of.
        kernel = conv.weight.detach().permute(0, 2, 1).contiguous()
        self._kernel = kernel.permute(0, 2, 1)[:, :, None]  # torch's with the channels last
        self._weight = (
            kernel[..., 0].T if self._groups > 1 else kernel.flatten(1).T
        )  # [taps, channels]; [taps * in, out]
        assert conv.bias is not None  # noqa: S101 - the architecture's have one
        self._bias: Tensor = conv.bias.detach()
        # A pointwise convolution takes several columns as one if they are narrow.
        self._together = max(_NARROW_PRODUCT // conv.out_channels, 1) if self._taps == 1 else 1
        if self._together > 1:
            self._weight = torch.block_diag(*[self._weight] * self._together)
            self._bias = self._bias.repeat(self._together)
        self.conv_state = kernel.new_zeros(slots + 1, self._tail, conv.in_channels)

    @property
    def context(self) -> int:
        """How many columns before these an output depends on."""
        return self._tail

    def __call__(self, columns: Tensor, slots: Tensor, past_columns: int) -> Tensor:
        batch, length, channels = columns.shape
        if self._tail:
            tail = self.conv_state[slots] if past_columns else columns.new_zeros(batch, self._tail, channels)
            columns = torch.cat((tail, columns), 1)
            self.conv_state.index_copy_(0, slots, columns[:, length:])
        if self._taps == 1:
            return self._pointwise(columns)
        if columns.is_cpu and batch * length >= _LONG:
            return self._long(columns)
        taps = [columns[:, tap * self._dilation : tap * self._dilation + length] for tap in range(self._taps)]
        if self._groups > 1:
            return (torch.stack(taps, 2) * self._weight).sum(2) + self._bias
        return torch.addmm(self._bias, _beside(taps).flatten(0, 1), self._weight).view(batch, length, -1)

    def _pointwise(self, columns: Tensor) -> Tensor:
        batch, length, channels = columns.shape
        together = math.gcd(length, self._together)
        rows = columns.reshape(-1, together * channels)
        width = len(self._bias) // self._together * together
        return torch.addmm(self._bias[:width], rows, self._weight[: rows.shape[1], :width]).view(batch, length, -1)

    def _long(self, columns: Tensor) -> Tensor:
        """By torch's convolution in two dimensions, which has a form with the channels last."""
        image = columns.transpose(1, 2)[:, :, None]
        out = F.conv2d(image, self._kernel, self._bias, dilation=(1, self._dilation), groups=self._groups)
        return out[:, :, 0].transpose(1, 2)


def _beside(taps: list[Tensor]) -> Tensor:
    """torch.cat(taps, -1). On a GPU it copies element by element: so by the widest there are."""
    if taps[0].is_cpu or taps[0].shape[-1] * taps[0].itemsize % torch.int64.itemsize:
        return torch.cat(taps, -1)
    return torch.cat([tap.view(torch.int64) for tap in taps], -1).view(taps[0].dtype)


class UpsamplingConvolution:
    """A transposed convolution whose kernel is its stride, or twice that and trimmed by a stride on both sides.

    With the longer kernel each input's outputs overlap the next one's; what is left after the trimming stands between
    two inputs. So n columns give n − 1 groups of `stride` at first, and n later on; the last input is kept.
    """

    def __init__(self, module: Any, slots: int) -> None:
        conv: nn.ConvTranspose1d = module.conv
        self.stride: int = conv.stride[0]
        self.overlaps = conv.kernel_size[0] > self.stride
        if conv.kernel_size[0] != self.stride * (2 if self.overlaps else 1) or module.left_pad not in (0, self.stride):
            raise ValueError(f"a transposed convolution of kernel {conv.kernel_size[0]} and stride {self.stride}")
        weight = conv.weight.detach()
        inputs, outputs, _ = weight.shape
        # [in, out, kernel] → [in, stride * out], of the newer input over that of the older.
        newer = weight[..., : self.stride].permute(0, 2, 1).flatten(1)
        older = weight[..., self.stride :].permute(0, 2, 1).flatten(1)
        self._weight = torch.cat((newer, older)) if self.overlaps else newer.contiguous()
        assert conv.bias is not None  # noqa: S101 - the architecture's have one
        self._bias = conv.bias.detach().repeat(self.stride)
        self._outputs = outputs
        self.conv_state = weight.new_zeros(slots + 1, 1 if self.overlaps else 0, inputs)

    def columns_after(self, columns: int) -> int:
        """Outputs that the first `columns` inputs give."""
        return max(columns - self.overlaps, 0) * self.stride

    def __call__(self, columns: Tensor, slots: Tensor, past_columns: int) -> Tensor:
        if self.overlaps:
            newest = columns[:, -1:]
            if past_columns:
                columns = torch.cat((self.conv_state[slots], columns), 1)
            self.conv_state.index_copy_(0, slots, newest)
            columns = torch.cat((columns[:, 1:], columns[:, :-1]), -1)
        batch, length, width = columns.shape
        grown = torch.addmm(self._bias, columns.reshape(-1, width), self._weight)
        return grown.view(batch, length * self.stride, self._outputs)


class Snake:
    """x + sin²(a x) / b."""

    def __init__(self, module: Any, *, fused: bool = False) -> None:
        rate = module.alpha.detach().exp()
        share = 1.0 / (module.beta.detach().exp() + module.no_div_by_zero)
        # Several columns are taken for one where they are narrow.
        self._most = max(_NARROW_ROW // len(rate), 1)
        self._rate, self._share = rate.repeat(self._most), share.repeat(self._most)
        self._wave = FusedCall(_wave, enabled=fused)

    def __call__(self, columns: Tensor) -> Tensor:
        together = math.gcd(columns.shape[1], self._most)
        rows = columns.reshape(-1, together * columns.shape[2])
        width = rows.shape[1]
        return self._wave(None, rows, rate=self._rate[:width], share=self._share[:width]).view(columns.shape)


def _wave(_: None, rows: Tensor, *, rate: Tensor, share: Tensor) -> Tensor:
    return torch.addcmul(rows, (rows * rate).sin_().square_(), share)
