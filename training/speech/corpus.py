"""The sentences that the model learns to say, in its three voices: `python -m training.speech.corpus`.

Words begin at whole frames of the codec, so that a word has much the same codes wherever it stands. A shard that is in
the cache is not made again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.cache import cache_folder
from training.config import FRAME_SAMPLES, SAMPLE_RATE
from training.files import save_arrays
from training.hibari_voice import HOP_S, SPACE, synthesize
from training.options import parse_options, stage_parser
from training.voices import SPEAKER_SPEEDS, SPEAKERS
from training.world.sentences import NUMBERS, capital, draw_answers, is_held_out, said_answer
from training.world.words import number

SEED = 1
DRAWS = 3000
"""Sentences drawn, repeated ones included: how often one is drawn is how often it is trained with."""

SHARD_SENTENCES = 100
LEAD_FRAMES = 1
"""Silence before the first word. After the last there is as much, and what fills its frame."""

LABELS_PER_FRAME = 4
LOUDNESS_RMS = 0.08


@dataclass(frozen=True)
class Utterance:
    """sound: int16 [frames · 1920]. phonemes: int16 [frames, LABELS_PER_FRAME], 0 for silence."""

    text: str
    voice: str
    sound: NDArray[np.int16]
    phonemes: NDArray[np.int16]

    @property
    def frames(self) -> int:
        return len(self.phonemes)

    @property
    def words(self) -> NDArray[np.int64]:
        """Return which word each frame says, int64 [frames]: the first is 0, silence before it too.

        The silence after the last word counts as one word more, like the full stop among the text's tokens.
        """
        labels = self.phonemes.ravel()
        is_begin = np.append(False, (labels[:-1] == SPACE) & (labels[1:] != SPACE))
        words = np.cumsum(is_begin)[::LABELS_PER_FRAME]
        heard = np.flatnonzero(self.phonemes.any(1))
        words[heard[-1] + 1 :] += 1
        return words


def sentences() -> dict[str, int]:
    """Return the training sentences in a fixed order that mixes all kinds, and how often each is drawn.

    Numbers follow, each alone and as what was said: too many to be drawn, and too short to be learned from other ones.
    """
    drawn = dict(Counter(draw_answers(SEED, DRAWS, held_out=False)))
    for value in NUMBERS:
        for text in (capital(number(value)), said_answer(number(value))):
            if not is_held_out(text):
                drawn.setdefault(text, 1)
    return drawn


def render(text: str, voice: str, seed: int) -> Utterance:
    """Say a sentence in one of the model's own voices."""
    frame_s = FRAME_SAMPLES / SAMPLE_RATE
    said = synthesize(text, SPEAKERS[voice], speed=SPEAKER_SPEEDS[voice], seed=seed, frame_s=frame_s)
    lead = LEAD_FRAMES * FRAME_SAMPLES
    sound = np.pad(said.sound, (lead, lead))
    sound = np.pad(sound, (0, -len(sound) % FRAME_SAMPLES))
    sound *= LOUDNESS_RMS / float(np.sqrt((said.sound**2).mean() + 1e-9))
    frames = len(sound) // FRAME_SAMPLES
    middles = (np.arange(frames * LABELS_PER_FRAME) + 0.5) * frame_s / LABELS_PER_FRAME - LEAD_FRAMES * frame_s
    steps = np.floor(middles / HOP_S).astype(int)
    is_heard = (steps >= 0) & (steps < len(said.phonemes))
    labels = np.where(is_heard, said.phonemes[np.clip(steps, 0, len(said.phonemes) - 1)], 0)
    return Utterance(
        text,
        voice,
        (np.clip(sound, -1, 1) * 32767).astype(np.int16),
        labels.reshape(frames, LABELS_PER_FRAME).astype(np.int16),
    )


def make_corpus(folder: Path | None = None, *, shards: int | None = None) -> list[Path]:
    """Return the corpus's shards, and make those that are missing: all, or the first so many."""
    folder = folder or cache_folder("speech") / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    texts = list(sentences())
    total = -(-len(texts) // SHARD_SENTENCES)
    files: list[Path] = []
    for index in range(min(total, shards or total)):
        file = folder / f"{index:03}.npz"
        files.append(file)
        if file.is_file():
            continue
        begin = index * SHARD_SENTENCES
        said = [
            render(text, voice, seed=begin + offset)
            for offset, text in enumerate(texts[begin : begin + SHARD_SENTENCES])
            for voice in SPEAKERS
        ]
        _write(file, said)
        print(f"corpus {index + 1}/{total}", flush=True)
    return files


def read_shard(file: Path) -> Iterator[Utterance]:
    with np.load(file) as shard:
        texts, voices, sound, phonemes, frames = (
            shard[name] for name in ("texts", "voices", "sound", "phonemes", "frames")
        )
    begin = 0
    for text, voice, count in zip(texts, voices, frames, strict=True):
        end = begin + int(count)
        yield Utterance(str(text), str(voice), sound[begin * FRAME_SAMPLES : end * FRAME_SAMPLES], phonemes[begin:end])
        begin = end


def _write(path: Path, said: list[Utterance]) -> None:
    save_arrays(
        path,
        texts=[one.text for one in said],
        voices=[one.voice for one in said],
        sound=np.concatenate([one.sound for one in said]),
        phonemes=np.concatenate([one.phonemes for one in said]),
        frames=[one.frames for one in said],
    )


def main() -> None:
    parse_options(stage_parser(__doc__))
    make_corpus()


if __name__ == "__main__":
    main()
