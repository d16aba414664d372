"""Encodes the sounds of several prompts in one step, with the same result as in a step of their own.

The audio encoder pads the chunks of a batch to the longest one, and the embeddings of a short chunk depend on its
padding (`features.widen_chunks`). transformers batches the sounds of one prompt, vLLM those of one step. This module
therefore batches sounds by the padded width that they have in their own prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from services.thinker.features import audio_tokens


@dataclass(frozen=True)
class AudioBatch:
    """The sounds of one engine step.

    features: the mel frames of all sounds, concatenated, [mel bins, frames]; lengths: frames of each, int64 [sounds];
    widths: frames that each sound's chunks are padded to, int64 [sounds]; None = each as if alone in its prompt.
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
        if width > max(own[index] for index in members):  # an earlier step encoded the prompt's longest chunk
            group.append(group[0].new_zeros(len(group[0]), width))
        frames = torch.tensor([mel.shape[1] for mel in group], device=sounds.features.device)
        tokens = [audio_tokens(mel.shape[1]) for mel in group]
        embeddings = tower(
            torch.cat(group, dim=1), feature_lens=frames, aftercnn_lens=torch.tensor(tokens, device=frames.device)
        )
        embedded |= zip(members, embeddings.split(tokens), strict=False)
    return tuple(embedded[index] for index in range(len(lengths)))
