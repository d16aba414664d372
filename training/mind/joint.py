"""Stage "joint": towers and language model together, on media distorted anew each time. The last polish.

Run as `python -m training.mind.joint` after stage "bank".
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.local.checkpoint.kinds import Kind
from training.cache import cache_folder
from training.loop import Schedule
from training.mind.arrays import Samples
from training.mind.bank import encode_film, encode_picture, encode_recording, encode_sound, load_towers
from training.mind.clips import read_clips
from training.mind.dialogues import Media, draw_dialogue
from training.mind.mel import distort
from training.mind.sequence import Example, Features, sequence_of
from training.mind.stage import load_into, run_stage
from training.mind.thinker import BALANCE, Language
from training.options import parse_options, stage_parser
from training.world import facts


class LiveSource:
    """Speech of the bank's clips, all else drawn anew; features come from the towers, with their gradients."""

    def __init__(self, work: Path, thinker: Any) -> None:
        self._thinker = thinker
        self._clips: list[np.ndarray[Any, np.dtype[np.int16]]] = []
        self._by_text: dict[str, list[int]] = defaultdict(list)
        for clip in read_clips(work / "speech"):
            self._by_text[clip.text].append(len(self._clips))
            self._clips.append((clip.samples * 32767).astype(np.int16))

    def speech(self, text: str, rng: random.Random) -> Media | None:
        return Media("speech", str(rng.choice(self._by_text[text]))) if text in self._by_text else None

    def picture(self, rng: random.Random) -> Media:
        return Media("picture", str(rng.random()), facts.draw_picture(rng))

    def recording(self, rng: random.Random) -> Media:
        return Media("sound", str(rng.random()), facts.draw_recording(rng))

    def film(self, rng: random.Random, *, has_sound: bool) -> Media:
        return Media("film", str(rng.random()), facts.draw_film(rng, has_sound=has_sound))

    def features(self, medium: Media, rng: np.random.Generator) -> Features:
        if medium.kind == "speech":
            clip: Samples = self._clips[int(medium.key)].astype(np.float32) / np.float32(32767)
            return encode_sound(self._thinker, distort(clip, rng))
        if medium.kind == "sound":
            return encode_recording(self._thinker, medium.scene, rng)
        if medium.kind == "picture":
            return encode_picture(self._thinker, medium.scene, rng)
        return encode_film(self._thinker, medium.scene, rng, frames=4)


def draw_live(source: LiveSource, seed: str, thinker: Any) -> Example:
    rng = random.Random(seed)
    kind = Kind.THINKING if rng.random() < 0.25 else Kind.INSTRUCT
    dialogue = draw_dialogue(source, rng)
    draws = np.random.default_rng(rng.randrange(1 << 31))
    return sequence_of(dialogue, {one: source.features(one, draws) for one in dialogue.media}, kind, thinker)


def main() -> None:
    options = stage_parser(__doc__)
    options.add_argument("--steps", type=int, default=800)
    options.add_argument("--batch", type=int, default=20)
    options.add_argument("--rate", type=float, default=3e-4)
    given = parse_options(options)
    work = cache_folder("mind")
    thinker = load_towers(work)
    language = Language(thinker)
    if not (work / "joint.pt").exists():
        load_into(work / "thinker-bank.pt", {"language": language})
    source = LiveSource(work, thinker)

    def batch_of(name: str) -> list[Example]:
        return [draw_live(source, f"{name} {number}", thinker) for number in range(given.batch)]

    def loss_of(step: int) -> dict[str, Tensor]:
        answers, balance, _ = language(batch_of(f"joint {step}"))
        return {"answers": answers, "balance": balance * BALANCE}

    def check() -> str:
        with torch.inference_mode():
            measured = [language(batch_of(f"joint check {number}")) for number in range(3)]
        loss, right = (float(torch.stack([one[index] for one in measured]).mean()) for index in (0, 2))
        return f"loss {loss:.4f}, tokens right {right:.4f}"

    run_stage(work / "joint.pt", {"thinker": thinker}, Schedule(given.steps, given.rate), loss_of, check)


if __name__ == "__main__":
    main()
