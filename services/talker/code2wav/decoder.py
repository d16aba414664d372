"""code2wav with kept state: each frame's samples as soon as the frame is there, nothing computed twice.

The whole decode is causal but for one thing: a transposed convolution trims a stride of outputs on both sides, so its
last outputs wait for the next input. What is kept of a stream between calls, in buffers made once for all slots:
- of each convolution, the tail of its input (its receptive field less one);
- of each transposed convolution, its last input;
- of the transformer, the keys and values of its sliding window.
So any grouping of frames gives the samples of one whole decode, to float rounding; what the last frame still owes
(555 samples in the released model) never comes, as in the whole decode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoeCausalConvNet,
    Qwen3OmniMoeCausalTransConvNet,
    Qwen3OmniMoeCode2WavDecoderBlock,
    Qwen3OmniMoeCode2WavDecoderResidualUnit,
    Qwen3OmniMoeConvNeXtBlock,
)

from services.talker.code2wav.convolutions import CausalConvolution, Snake, UpsamplingConvolution
from services.talker.code2wav.window import WindowTransformer


@dataclass(frozen=True)
class _ConvNext:
    depthwise: CausalConvolution
    module: Any

    def __call__(self, columns: Tensor, slots: Tensor, seen: int) -> Tensor:
        module = self.module
        mixed = module.norm(self.depthwise(columns, slots, seen))
        mixed = F.linear(F.gelu(F.linear(mixed, module.pwconv1.weight, module.pwconv1.bias)), module.pwconv2.weight)
        return torch.addcmul(columns, mixed + module.pwconv2.bias, module.gamma)


@dataclass(frozen=True)
class _ResidualUnit:
    first: CausalConvolution
    second: CausalConvolution
    first_act: Snake
    second_act: Snake

    def __call__(self, columns: Tensor, slots: Tensor, seen: int) -> Tensor:
        mixed = self.first(self.first_act(columns), slots, seen)
        return self.second(self.second_act(mixed), slots, seen).add_(columns)


@dataclass(frozen=True)
class _Activation:
    act: Callable[[Tensor], Tensor]

    def __call__(self, columns: Tensor, slots: Tensor, seen: int) -> Tensor:
        return self.act(columns)


_Layer = CausalConvolution | UpsamplingConvolution | _ConvNext | _ResidualUnit | _Activation


class CodecDecoder:
    """Frames of codes → samples, for the streams in slots 1 to `slots`; slot 0 only fills up batches."""

    def __init__(self, code2wav: Any, *, slots: int = 1, frames_at_once: int = 1, fused: bool = False) -> None:
        """frames_at_once: the most frames of a stream that one call takes; fused: compiled, see FusedCall."""
        self.frames_at_once = frames_at_once
        self._embedding, self._offsets = code2wav.code_embedding, code2wav.code_offset.flatten()
        self._transformer = WindowTransformer(code2wav.pre_transformer, slots, frames_at_once, fused=fused)
        self._fused = fused
        self._convolutions: list[CausalConvolution] = []
        self._layers: list[_Layer] = []
        for module in [layer for stage in code2wav.upsample for layer in stage] + list(code2wav.decoder):
            self._add(module, slots)

    @property
    def kept(self) -> list[Tensor]:
        """What the streams' state lies in; all but the first, the transformer's, are [slots, …]."""
        upsampling = [layer for layer in self._layers if isinstance(layer, UpsamplingConvolution)]
        return [self._transformer.kept, *(layer.kept for layer in [*self._convolutions, *upsampling])]

    @property
    def kept_bytes(self) -> int:
        """All slots and the scratch slot together."""
        return sum(tensor.nbytes for tensor in self.kept)

    @property
    def settled_frames(self) -> int:
        """From so many frames on, each further frame gives all its samples and passes through equal shapes."""
        frames = 1
        while not all(columns for columns in self._columns(frames)):
            frames += 1
        return frames

    @property
    def context_frames(self) -> int:
        """A frame's samples depend on no frame before the last so many."""
        reach, rate = 0.0, 1
        for layer in self._layers:
            match layer:
                case UpsamplingConvolution():
                    reach += layer.overlaps / rate
                    rate *= layer.stride
                case CausalConvolution():
                    reach += layer.context / rate
                case _ConvNext():
                    reach += layer.depthwise.context / rate
                case _ResidualUnit():
                    reach += (layer.first.context + layer.second.context) / rate
                case _Activation():
                    pass
        return self._transformer.context + int(reach) + 2

    def samples_after(self, frames: int) -> int:
        """How many samples the first `frames` frames give."""
        return self._columns(frames)[-1]

    @torch.inference_mode()
    def decode(self, slots: Tensor, starts: Tensor, codes: Tensor, *, seen: int) -> Tensor:
        """The samples that each stream's next frames add: float32 [batch, samples] in ±1.

        codes int64 [batch, frames, codebooks], at most frames_at_once frames; starts int64 [batch]: each stream's
        frames before these; seen: their number, where it is below settled_frames, which all of a batch share then,
        else settled_frames.
        """
        hidden = F.embedding(codes + self._offsets, self._embedding.weight).mean(2)
        columns = self._transformer(hidden, slots, starts)
        for layer, before in zip(self._layers, self._columns(seen), strict=False):
            columns = layer(columns, slots, before)
            if not columns.shape[1]:
                return columns.new_zeros(len(columns), 0, dtype=torch.float32)
        return columns.clamp(-1, 1).float().flatten(1)

    def _columns(self, frames: int) -> list[int]:
        """Columns that each layer has been given after `frames` frames, and at last the samples."""
        counts = [frames]
        for layer in self._layers:
            counts.append(layer.columns_after(counts[-1]) if isinstance(layer, UpsamplingConvolution) else counts[-1])
        return counts

    def _causal(self, module: Any, slots: int) -> CausalConvolution:
        self._convolutions.append(CausalConvolution(module, slots))
        return self._convolutions[-1]

    def _snake(self, module: Any) -> Snake:
        return Snake(module, fused=self._fused)

    def _add(self, module: Any, slots: int) -> None:
        match module:
            case Qwen3OmniMoeCausalConvNet():
                self._layers.append(self._causal(module, slots))
            case Qwen3OmniMoeCausalTransConvNet():
                self._layers.append(UpsamplingConvolution(module, slots))
            case Qwen3OmniMoeConvNeXtBlock():
                self._layers.append(_ConvNext(self._causal(module.dwconv, slots), module))
            case Qwen3OmniMoeCode2WavDecoderResidualUnit():
                first, second = self._causal(module.conv1, slots), self._causal(module.conv2, slots)
                self._layers.append(_ResidualUnit(first, second, self._snake(module.act1), self._snake(module.act2)))
            case Qwen3OmniMoeCode2WavDecoderBlock():
                for inner in module.block:
                    self._add(inner, slots)
            case _:
                self._layers.append(_Activation(self._snake(module)))
