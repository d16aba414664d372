"""Embeds the sounds of several prompts in one step, each as in its own prompt.

The encoder of vLLM and of transformers pads the chunks of a batch to the longest, and a short chunk depends on its
padding (`features.widen_chunks`). transformers encodes the sounds of one prompt together, vLLM those of one step. So
sounds are batched here by the width that they have in their prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from services.thinker.features import audio_tokens


@dataclass(frozen=True)
class AudioBatch:
    """The sounds of one engine step.

    features: mel frames of all, one after another, [mel bins, frames]; lengths: frames of each, int64 [sounds];
    widths: frames that each one's chunks are padded to, int64 [sounds]; None = each as if alone.
    """

    features: torch.Tensor
    lengths: torch.Tensor
    widths: torch.Tensor | None


def embed_audio(tower: Any, sounds: AudioBatch) -> tuple[torch.Tensor, ...]:
    """Return each sound's embeddings, [tokens, hidden]."""
    full = 2 * tower.n_window
    lengths: list[int] = sounds.lengths.flatten().tolist()
    own = [min(length, full) for length in lengths]
    widths: list[int] = own if sounds.widths is None else sounds.widths.flatten().tolist()
    mels = sounds.features.to(tower.dtype).split(lengths, dim=1)
    embedded: dict[int, torch.Tensor] = {}
    for width in sorted(set(widths)):
        members = [index for index, its in enumerate(widths) if its == width]
        group = [mels[index] for index in members]
        if width > max(own[index] for index in members):  # the prompt's longest chunk was encoded before
            group.append(group[0].new_zeros(len(group[0]), width))
        frames = torch.tensor([mel.shape[1] for mel in group], device=sounds.features.device)
        tokens = [audio_tokens(mel.shape[1]) for mel in group]
        embeddings = tower(
            torch.cat(group, dim=1), feature_lens=frames, aftercnn_lens=torch.tensor(tokens, device=frames.device)
        )
        embedded |= zip(members, embeddings.split(tokens), strict=False)
    return tuple(embedded[index] for index in range(len(lengths)))
