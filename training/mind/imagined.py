"""Media as ideal towers would give them, made of the words' embeddings: the thinker can begin before the towers end."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from training.mind.dialogues import Media
from training.mind.model import table, tokenizer_and_ids, word_direction
from training.mind.sequence import Features
from training.world.facts import Scene, draw_film, draw_picture, draw_recording
from training.world.words import WORDS, words_of

LEVELS = 2


class ImaginedSource:
    """Dialogues' media, drawn anew each time. `features` gives what the towers would say of one."""

    def __init__(self) -> None:
        self._count = 0
        self.words = {word: word_direction(word) for word in WORDS}
        self.other = table()[tokenizer_and_ids()[1]["<|object_ref_start|>"]]

    def speech(self, text: str, rng: random.Random) -> Media | None:
        return Media("speech", f"{self._next()} {text}")

    def picture(self, rng: random.Random) -> Media:
        return Media("picture", self._next(), draw_picture(rng))

    def recording(self, rng: random.Random) -> Media:
        return Media("sound", self._next(), draw_recording(rng))

    def film(self, rng: random.Random, *, has_sound: bool) -> Media:
        return Media("film", self._next(), draw_film(rng, has_sound=has_sound))

    def features(self, medium: Media, rng: np.random.Generator) -> Features:
        if medium.kind == "speech":
            return self._heard(self._spoken(medium.key.split(" ", 1)[1]), rng)
        if medium.kind == "sound":
            return self._heard([self._sound(name) for name in medium.scene.sounds], rng, per_label=8)
        sound = None
        if medium.kind == "film" and medium.scene.sounds:
            sound = self._heard([self._sound(name) for name in medium.scene.sounds], rng, per_label=14)
        return self._seen(medium.scene, int(rng.integers(2, 4)) if medium.kind == "film" else 1, sound, rng)

    def _next(self) -> str:
        self._count += 1
        return str(self._count)

    def _sound(self, name: str) -> Tensor:
        return (self.words[name] + self.words["sound"]) / 2**0.5

    def _spoken(self, text: str) -> list[Tensor]:
        rows: list[Tensor] = []
        for word in words_of(text):
            row = self.words.get(word, self.other)
            if row is not self.other or not rows or rows[-1] is not self.other:
                rows.append(row)
        return rows

    def _heard(self, labels: list[Tensor], rng: np.random.Generator, per_label: int = 4) -> Features:
        quiet = self.words["silence"]
        rows: list[Tensor] = [quiet] * int(rng.integers(1, 5))
        for label in labels:
            before = int(rng.integers(1, per_label))
            rows += [quiet] * before + [label] * int(rng.choice([1, 1, 2])) + [quiet] * int(rng.integers(0, 2))
        rows += [quiet] * int(rng.integers(1, 5))
        embeds = self._blurred(torch.stack(rows), rng)
        return Features(embeds, frames=_frames_of(len(rows)))

    def _seen(self, scene: Scene, moments: int, sound: Features | None, rng: np.random.Generator) -> Features:
        things = [group for group in scene.groups for _ in range(group.count)]
        high = int(rng.integers(2, 7))
        wide = max(2, -(-len(things) * 2 // high), int(rng.integers(2, 7)))
        rows = self.words["nothing"].repeat(moments, high * wide, 1)
        places = rng.choice(high * wide, len(things), replace=False)
        for moment in range(moments):
            for group, place in zip(things, places, strict=True):
                named = self.words[group.colour] + self.words[group.shape]
                at = int(place)
                if scene.direction:
                    named = named + self.words[scene.direction]
                    at = _moved(at, scene.direction, moment, high, wide)
                rows[moment, at] = named
        flat = rows.reshape(-1, rows.shape[-1])
        deep = torch.stack([self._blurred(flat, rng) * 0.5 for _ in range(LEVELS)])
        return Features(self._blurred(flat, rng), deep, grid=(moments, high * 2, wide * 2), sound=sound)

    def _blurred(self, rows: Tensor, rng: np.random.Generator) -> Tensor:
        """Of any length and a little beside: real towers differ in both."""
        noise = torch.from_numpy(rng.standard_normal(rows.shape).astype(np.float32))
        return rows * float(rng.uniform(0.5, 1.5)) + noise * float(rng.uniform(0.02, 0.15))


def _moved(place: int, direction: str, moment: int, high: int, wide: int) -> int:
    row, column = divmod(place, wide)
    down = {"up": -moment, "down": moment}.get(direction, 0)
    right = {"left": -moment, "right": moment}.get(direction, 0)
    return (row + down) % high * wide + (column + right) % wide


def _frames_of(tokens: int) -> int:
    """A number of mel frames that gives so many tokens: 13 for each whole second, then one for each eight frames."""
    seconds, left = divmod(tokens, 13)
    return seconds * 100 + left * 8
