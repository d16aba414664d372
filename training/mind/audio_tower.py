"""Stage "audio": the audio tower learns to write down words and to name sounds (CTC over its 13 outputs a second).

As in stage "vision", its outputs are drawn to the words' embeddings. It learns from as much of the bank of speech as
there is, and looks for more now and then. Run as `python -m training.mind.audio_tower`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.cache import cache_folder
from training.files import save_arrays
from training.loop import Schedule
from training.mind.arrays import Samples
from training.mind.clips import read_clips
from training.mind.human import human_clips
from training.mind.mel import distort, log_mel, paced, quiet_around, tilted, uneven, warped
from training.mind.model import new_thinker, table, tokenizer_and_ids, word_direction
from training.mind.sounds import make_recording
from training.mind.stage import run_stage
from training.options import parse_options, stage_parser
from training.world.words import SOUNDS, WORDS, words_of

BLANK = 0
OTHER = 1 + len(WORDS) + len(SOUNDS)
"""Any word outside the world."""

LABELS = OTHER + 1

SHORT_STEPS = 400
"""At first it hears one or two words at a time: CTC finds them sooner there."""
_WORD_LABELS = {word: 1 + index for index, word in enumerate(WORDS)}
_SOUND_LABELS = {sound: 1 + len(WORDS) + index for index, sound in enumerate(SOUNDS)}


@dataclass(frozen=True)
class Heard:
    """A sound, int16 [samples] at 16 kHz, and what the tower is to write."""

    levels: np.ndarray[Any, np.dtype[np.int16]]
    labels: tuple[int, ...]

    @property
    def samples(self) -> Samples:
        return self.levels.astype(np.float32) / np.float32(32767)


def labels_of(text: str) -> tuple[int, ...]:
    """Words outside the world that follow each other are one OTHER."""
    labels: list[int] = []
    for word in words_of(text):
        label = _WORD_LABELS.get(word, OTHER)
        if label != OTHER or labels[-1:] != [OTHER]:
            labels.append(label)
    return tuple(labels)


class Head(nn.Module):
    """Scores blank, words, sounds and OTHER by the tower's outputs, along directions of the embedding table."""

    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        words = [word_direction(word) for word in WORDS]
        sounds = [(word_direction(sound) + word_direction("sound")) / 2**0.5 for sound in SOUNDS]
        other = table()[tokenizer_and_ids()[1]["<|object_ref_start|>"]]
        self.register_buffer("rows", torch.stack([word_direction("silence"), *words, *sounds, other]))
        self.scale = nn.Parameter(torch.tensor(math.log(0.5)))
        self.bias = nn.Parameter(torch.zeros(LABELS))

    def forward(self, outputs: Tensor) -> Tensor:
        """float32 [frames, hidden] → log probabilities [frames, labels]."""
        return functional.log_softmax(outputs @ self.rows.T * self.scale.exp() + self.bias, -1)


def stage_model(tower: Any) -> nn.ModuleDict:
    """Return what this stage trains and saves."""
    return nn.ModuleDict({"tower": tower, "head": Head()})


def audio_outputs(tower: Any, mels: Sequence[Tensor]) -> list[Tensor]:
    """Run the tower on packed features, as the thinker does; return float32 [tokens, hidden] of each."""
    lengths = torch.tensor([mel.shape[1] for mel in mels])
    out = tower(torch.cat(list(mels), 1), feature_lens=lengths).last_hidden_state
    left = lengths % 100
    tokens = ((((left - 1) // 2 + 1) - 1) // 2 + 1 - 1) // 2 + 1 + lengths // 100 * 13
    return list(out.split(tokens.tolist()))


def written(log_probabilities: Tensor) -> tuple[int, ...]:
    """Return the labels of the best path."""
    best = torch.unique_consecutive(log_probabilities.argmax(-1)).tolist()
    return tuple(label for label in best if label != BLANK)


class Ears:
    """Draws what there is to hear: speech of the bank, recordings, and noise with nothing in it."""

    def __init__(self, work: Path) -> None:
        self._folder = work / "speech"
        self._speech: list[Heard] = []
        self._files = 0
        self._sounds = self._make_sounds(work / "sounds.npz")

    def look_again(self) -> None:
        """Take in clips that the bank has got since."""
        clips = list(read_clips(self._folder, self._files))
        self._speech += [Heard((clip.samples * 32767).astype(np.int16), labels_of(clip.text)) for clip in clips]
        self._files = len(list(self._folder.glob("[0-9]*[0-9].npz")))

    def draw(self, rng: np.random.Generator, most_words: int) -> tuple[Tensor, tuple[int, ...]]:
        """Return distorted features [128, frames] and their labels, of speech with at most so many words."""
        roll = rng.random()
        if roll < 0.03:
            hiss = rng.standard_normal(int(rng.uniform(0.5, 2.0) * 16_000)).astype(np.float32)
            return log_mel(hiss * np.float32(10 ** rng.uniform(-4, -1.5))), ()
        sound = self._sounds[int(rng.integers(len(self._sounds)))]
        if roll < 0.22 or not self._speech:
            return varied(log_mel(distort(sound.samples, rng)), rng), sound.labels
        said = self._speech[int(rng.integers(len(self._speech)))]
        while len(said.labels) > most_words:
            said = self._speech[int(rng.integers(len(self._speech)))]
        return varied(log_mel(distort(said.samples, rng, sound.samples)), rng), said.labels

    @property
    def clips(self) -> int:
        return len(self._speech)

    def _make_sounds(self, path: Path) -> list[Heard]:
        if not path.exists():
            rng = np.random.default_rng(11)
            kinds = [(kind,) for kind in SOUNDS for _ in range(36)]
            kinds += [tuple(map(str, rng.choice(tuple(SOUNDS), 2, replace=False))) for _ in range(200)]
            made = [(make_recording(one, rng) * 32767).astype(np.int16) for one in kinds]
            lengths = [len(one) for one in made]
            save_arrays(path, levels=np.concatenate(made), lengths=lengths, kinds=[" ".join(one) for one in kinds])
        with np.load(path) as file:
            made = np.split(file["levels"], np.cumsum(file["lengths"])[:-1])
            names = file["kinds"].tolist()
        return [
            Heard(levels, tuple(_SOUND_LABELS[kind] for kind in of.split()))
            for levels, of in zip(made, names, strict=True)
        ]


def varied(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Give it another pace and another throat, and hide a band or two and a moment, now and then."""
    if rng.random() < 0.7:
        mel = paced(mel, math.exp(rng.uniform(math.log(0.85), math.log(1.9))))
    if rng.random() < 0.6:
        mel = uneven(mel, rng)
    if rng.random() < 0.7:
        mel = warped(mel, float(rng.uniform(0.8, 1.22)))
    if rng.random() < 0.5:
        mel = tilted(mel, rng)
    for _ in range(int(rng.choice([0, 1, 1, 2]))):
        band = int(rng.integers(0, 110))
        mel[band : band + int(rng.integers(4, 18))] = mel.min()
    if rng.random() < 0.3 and mel.shape[1] > 40:
        at = int(rng.integers(0, mel.shape[1] - 8))
        mel[:, at : at + int(rng.integers(2, 8))] = mel.min()
    return mel


def loss_of(
    tower: Any, head: Head, ears: Ears, rng: np.random.Generator, batch: int, most_words: int = 99
) -> dict[str, Tensor]:
    drawn = [ears.draw(rng, most_words) for _ in range(batch)]
    outputs = audio_outputs(tower, [mel for mel, _ in drawn])
    lengths = torch.tensor([len(one) for one in outputs])
    padded = nn.utils.rnn.pad_sequence(outputs, batch_first=True)
    scores = head(padded).transpose(0, 1)
    targets = torch.tensor([label for _, labels in drawn for label in labels])
    target_lengths = torch.tensor([len(labels) for _, labels in drawn])
    loss = functional.ctc_loss(scores, targets, lengths, target_lengths, blank=BLANK, zero_infinity=True)
    # What the thinker would like to read: the words themselves, at their own length.
    flat = torch.cat(outputs)
    ideal = head(flat).detach().exp() @ head.rows
    return {"ctc": loss, "shape of outputs": functional.mse_loss(flat, ideal)}


@torch.inference_mode()
def check(tower: Any, head: Head, work: Path) -> str:
    """How many clips are written without a mistake: known voices, the unheard voice, a person."""
    told: list[str] = []
    banks = {name: list(read_clips(work / name)) for name in ("speech-check", "speech-unheard")}
    for name, clips in (banks | {"human": human_clips()}).items():
        right = [_written(tower, head, clip.samples) == labels_of(clip.text) for clip in clips]
        told.append(f"{name} {sum(right) / max(len(right), 1):.3f} of {len(right)}")
    rng, right = np.random.default_rng(5), 0
    for kind in SOUNDS:
        for _ in range(5):
            right += _written(tower, head, make_recording((kind,), rng)) == (_SOUND_LABELS[kind],)
    return ", ".join([*told, f"sounds {right / 60:.3f} of 60"])


def _written(tower: Any, head: Head, sound: Samples) -> tuple[int, ...]:
    return written(head(audio_outputs(tower, [log_mel(quiet_around(sound))])[0]))


def main() -> None:
    options = stage_parser(__doc__)
    options.add_argument("--steps", type=int, default=16500)
    options.add_argument("--batch", type=int, default=20)
    options.add_argument("--rate", type=float, default=1e-3)
    given = parse_options(options)
    work = cache_folder("mind")
    tower, ears = new_thinker(1).audio_tower, Ears(work)
    modules = stage_model(tower)
    head = modules["head"]
    assert isinstance(head, Head)

    def one_loss(step: int) -> dict[str, Tensor]:
        if step % 100 == 0 or not ears.clips:
            ears.look_again()
        most_words = 2 if step < SHORT_STEPS else 99
        return loss_of(tower, head, ears, np.random.default_rng([2, step]), given.batch, most_words)

    schedule = Schedule(given.steps, given.rate)
    run_stage(
        work / "audio.pt",
        modules,
        schedule,
        one_loss,
        lambda: f"{check(tower, head, work)}; {ears.clips} clips",
    )


if __name__ == "__main__":
    main()
