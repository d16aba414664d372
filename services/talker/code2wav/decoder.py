"""code2wav with state: each frame's samples as soon as the frame is there, and nothing computed twice.

The whole decode is causal but for one thing: a transposed convolution trims a stride of outputs on both sides, so its
last outputs wait for the next input. The state of a stream between calls, in buffers made once for all slots:
- of each convolution, the tail of its input (its receptive field less one);
- of each transposed convolution, its last input;
- of the transformer, the keys and values of its sliding window.
So any grouping of frames gives the samples of one whole decode, to float rounding. The samples that would follow the
last frame (555 in the released model) never come, as in the whole decode.
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

    def __call__(self, columns: Tensor, slots: Tensor, past_columns: int) -> Tensor:
        module = self.module
        mixed = module.norm(self.depthwise(columns, slots, past_columns))
        mixed = F.linear(F.gelu(F.linear(mixed, module.pwconv1.weight, module.pwconv1.bias)), module.pwconv2.weight)
        return torch.addcmul(columns, mixed + module.pwconv2.bias, module.gamma)


@dataclass(frozen=True)
class _ResidualUnit:
    first: CausalConvolution
    second: CausalConvolution
    first_act: Snake
    second_act: Snake

    def __call__(self, columns: Tensor, slots: Tensor, past_columns: int) -> Tensor:
        mixed = self.first(self.first_act(columns), slots, past_columns)
        return self.second(self.second_act(mixed), slots, past_columns).add_(columns)


@dataclass(frozen=True)
class _Activation:
    act: Callable[[Tensor], Tensor]

    def __call__(self, columns: Tensor, slots: Tensor, past_columns: int) -> Tensor:
        return self.act(columns)


_Layer = CausalConvolution | UpsamplingConvolution | _ConvNext | _ResidualUnit | _Activation


class CodecDecoder:
    """Decodes frames of codes to samples, for the streams in slots 1 to `slots`; slot 0 pads batches."""

    def __init__(self, code2wav: Any, *, slots: int = 1, frames_at_once: int = 1, fused: bool = False) -> None:
        """frames_at_once: the most frames of a stream in one call; fused: compile, see FusedCall."""
        self.frames_at_once = frames_at_once
        self._embedding, self._offsets = code2wav.code_embedding, code2wav.code_offset.flatten()
        self._transformer = WindowTransformer(code2wav.pre_transformer, slots, frames_at_once, fused=fused)
        self._fused = fused
        self._convolutions: list[CausalConvolution] = []
        self._layers: list[_Layer] = []
        for module in [layer for stage in code2wav.upsample for layer in stage] + list(code2wav.decoder):
            self._add(module, slots)

    @property
    def state(self) -> list[Tensor]:
        """The buffers of all streams' state; all but the first, the transformer's, are [slots, …]."""
        upsampling = [layer for layer in self._layers if isinstance(layer, UpsamplingConvolution)]
        return [self._transformer.kv_cache, *(layer.conv_state for layer in [*self._convolutions, *upsampling])]

    @property
    def state_bytes(self) -> int:
        """All slots and the scratch slot together."""
        return sum(tensor.nbytes for tensor in self.state)

    @property
    def settled_frames(self) -> int:
        """After so many frames, each further frame gives all its samples and has the same shapes."""
        frames = 1
        while not all(columns for columns in self._columns(frames)):
            frames += 1
        return frames

    @property
    def context_frames(self) -> int:
        """How many earlier frames a frame's samples depend on, at most."""
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
    def decode(self, slots: Tensor, starts: Tensor, codes: Tensor, *, num_past_frames: int) -> Tensor:
        """The samples that each stream's next frames add: float32 [batch, samples] in ±1.

        codes int64 [batch, frames, codebooks], at most frames_at_once frames; starts int64 [batch]: each stream's past
        frames; num_past_frames: their number if it is below settled_frames, in which case the whole batch shares it;
        else settled_frames.
        """
        hidden = F.embedding(codes + self._offsets, self._embedding.weight).mean(2)
        columns = self._transformer(hidden, slots, starts)
        for layer, before in zip(self._layers, self._columns(num_past_frames), strict=False):
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
