"""The corpus as the codec writes it: texts and their codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.files import save_arrays


@dataclass(frozen=True)
class CodedUtterance:
    """codes: int64 [frames, 16]. words: which word of the text each frame says, int64 [frames], see Utterance.words."""

    text: str
    voice: str
    codes: Tensor
    words: Tensor

    @property
    def frames(self) -> int:
        return len(self.codes)


def write_codes(file: Path, said: list[CodedUtterance]) -> None:
    save_arrays(
        file,
        texts=[one.text for one in said],
        voices=[one.voice for one in said],
        frames=[one.frames for one in said],
        codes=torch.cat([one.codes for one in said]).numpy().astype(np.uint8),
        words=torch.cat([one.words for one in said]).numpy().astype(np.uint8),
    )


def read_codes(file: Path) -> Iterator[CodedUtterance]:
    with np.load(file) as shard:
        texts, voices, frames = (shard[name] for name in ("texts", "voices", "frames"))
        codes, words = (
            torch.from_numpy(shard[name].astype(np.int64)).split(frames.tolist()) for name in ("codes", "words")
        )
    for text, voice, *parts in zip(texts, voices, codes, words, strict=True):
        yield CodedUtterance(str(text), str(voice), *parts)
