"""Words of a person: the prompts of Debian's asterisk-core-sounds-en-g722 (CC-BY-SA-3.0), of which the world has some.

For evaluation alone. The package may be installed or unpacked anywhere: $ANTIPHON_ASTERISK_SOUNDS names its folder of
prompts. Without it there are no such clips.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
import numpy as np

from training.mind.arrays import Samples
from training.mind.clips import Clip
from training.world.words import number

FOLDER = Path("/usr/share/asterisk/sounds/en_US_f_Allison")

_WORDS = {
    **{number(value): f"digits/{value}" for value in (*range(20), *range(20, 100, 10))},
    "minus": "digits/minus",
    "star": "digits/star",
    "hundred": "digits/hundred",
    "first": "digits/h-1",
}


def human_folder() -> Path:
    return Path(os.environ.get("ANTIPHON_ASTERISK_SOUNDS") or FOLDER)


def human_word(word: str) -> Samples:
    """Return one prompt, float32 [samples] at 16 kHz. Raise FileNotFoundError where the package is missing."""
    path = human_folder() / f"{_WORDS[word]}.g722"
    if not path.exists():
        raise FileNotFoundError(path)
    with av.open(str(path), format="g722") as container:
        frames: list[Any] = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(frames, axis=1)[0].astype(np.float32) / 32768


def human_says(words: str) -> Samples:
    """Return words one after the other, as telephones say numbers."""
    pause = np.zeros(800, np.float32)
    return np.concatenate([part for word in words.split() for part in (human_word(word), pause)])


def human_clips() -> list[Clip]:
    """Return each word that the world has, and numbers and differences put together of them; [] without the package."""
    if not (human_folder() / "digits").exists():
        return []
    said = [*_WORDS, *(number(value) for value in range(21, 100, 6) if value % 10)]
    said += [
        f"{number(left)} minus {number(right)}" for left, right in ((9, 4), (7, 2), (10, 3), (8, 8), (5, 6), (6, 1))
    ]
    return [Clip(words, "human", human_says(words)) for words in said]
