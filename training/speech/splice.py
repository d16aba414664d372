"""Utterances of shuffled words: parts of the corpus put together anew.

The corpus has few sentences, and they are easily learnt by heart: a talker that knows how they go on need not read what
comes. Each word begins at a whole frame, so words of one voice can be exchanged, with their codes. Where any word may
follow any other, only the text tells which is to be said.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.speech.codes import CodedUtterance
from training.world.sentences import capital, is_held_out

Place = Literal["first", "middle", "last"]
"""The first word has silence before it, the last after it."""


@dataclass(frozen=True)
class _Part:
    """A word in small letters. codes: int64 [frames, 16]. is_silence: after the last word, int64 [frames], 0 or 1."""

    word: str
    place: Place
    codes: Tensor
    is_silence: Tensor


class Splicer:
    """The words of a corpus by voice and place, each as often as it is said."""

    def __init__(self, said: Iterable[CodedUtterance]) -> None:
        self._parts: defaultdict[tuple[str, Place], defaultdict[str, list[_Part]]]
        self._parts = defaultdict(lambda: defaultdict(list))
        for one in said:
            for part in _parts(one):
                self._parts[one.voice, part.place][part.word].append(part)
        self._words = {key: list(words) for key, words in self._parts.items()}

    def splice(self, one: CodedUtterance, share: float, rng: random.Random) -> CodedUtterance:
        """Return an utterance with about this share of its words exchanged, for each word of its place alike.

        An utterance of a single word stays as it is, and so does one of which a held-out answer would come.
        """
        parts = [self._draw(one.voice, part.place, rng) if rng.random() < share else part for part in _parts(one)]
        text = capital(" ".join(part.word for part in parts)) if parts else ""
        if not text or is_held_out(text):
            return one
        words = [part.is_silence + index for index, part in enumerate(parts)]
        return CodedUtterance(text, one.voice, torch.cat([part.codes for part in parts]), torch.cat(words))

    def _draw(self, voice: str, place: Place, rng: random.Random) -> _Part:
        return rng.choice(self._parts[voice, place][rng.choice(self._words[voice, place])])


def _parts(one: CodedUtterance) -> list[_Part]:
    """Return the words of an utterance of two words and more."""
    words = one.text.lower().rstrip(".").split()
    last = len(words) - 1
    if last < 1:
        return []
    places: list[Place] = ["first", *["middle"] * (last - 1), "last"]
    parts: list[_Part] = []
    for index, (word, place) in enumerate(zip(words, places, strict=True)):
        here = (one.words == index) | ((one.words > last) & (index == last))
        parts.append(_Part(word, place, one.codes[here], (one.words[here] > last).long()))
    return parts
