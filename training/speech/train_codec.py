"""Trains the codec's encoder on the corpus, then encodes all of it: `python -m training.speech.train_codec`."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.cache import cache_folder
from training.config import CODEBOOK, CODEBOOKS
from training.hibari_voice import PHONEMES
from training.loop import Losses, Schedule, load, train
from training.speech.codec import Codec
from training.speech.codes import CodedUtterance, write_codes
from training.speech.corpus import LABELS_PER_FRAME, Utterance, make_corpus, read_shard
from training.speech.spectra import MELS_PER_FRAME, log_mel

SCHEDULE = Schedule(steps=2500, rate=1e-3, betas=(0.9, 0.99))
BATCH, CROP_FRAMES = 24, 16
TRAINING_SHARDS = 10


def checkpoint() -> Path:
    return cache_folder("speech") / "codec.pt"


def mel_of(utterance: Utterance) -> Tensor:
    """Return float32 [MELS, frames · 8]."""
    return log_mel(torch.from_numpy(utterance.sound).float()[None] / 32767)[0]


def train_codec(said: list[Utterance], file: Path, schedule: Schedule, *, stop_after: int | None = None) -> Codec:
    """Train on utterances of at least CROP_FRAMES frames, or go on with it."""
    codec = Codec()
    long = [one for one in said if one.frames >= CROP_FRAMES]
    mels = [mel_of(one) for one in long]
    joined = torch.cat(mels, 1)
    codec.mean.copy_(joined.mean(1, keepdim=True))
    codec.std.copy_(joined.std(1, keepdim=True) + 1e-3)

    def losses(step: int) -> Losses:
        rng = random.Random(step)
        chosen = [
            (index := rng.randrange(len(long)), rng.randint(0, long[index].frames - CROP_FRAMES)) for _ in range(BATCH)
        ]
        columns, crop = MELS_PER_FRAME, CROP_FRAMES
        mel = codec.normalise(torch.stack([mels[i][:, at * columns : (at + crop) * columns] for i, at in chosen]))
        labels = torch.from_numpy(np.stack([long[i].phonemes[at : at + crop] for i, at in chosen])).long()
        residual = CODEBOOKS - 1 if rng.random() < 0.5 else rng.randint(1, CODEBOOKS - 1)
        coded = codec.encode(mel, residual_codes=residual)
        scores = codec.phonemes(coded.semantic).view(-1, PHONEMES)
        told = functional.cross_entropy(scores, labels.view(-1))
        distance = functional.l1_loss(codec.decode(coded.semantic, coded.acoustic), mel)
        return {
            "loss": distance + 0.25 * coded.commitment + 0.3 * told,
            "mel": distance.detach(),
            "phonemes": told.detach(),
            "commitment": coded.commitment.detach(),
        }

    train("codec", file, codec, schedule, losses, stop_after=stop_after)
    return codec


@torch.inference_mode()
def encode(codec: Codec, utterance: Utterance) -> Tensor:
    """Return an utterance's codes, int64 [frames, 16]."""
    return codec.encode(codec.normalise(mel_of(utterance)[None])).codes[0]


def encode_corpus(codec: Codec, shards: list[Path], folder: Path) -> None:
    """Write each shard's codes, uint8 [frames, 16], beside its texts, voices and frames; those that exist stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        file = folder / shard.name
        if file.is_file():
            continue
        said = read_shard(shard)
        write_codes(file, [CodedUtterance(one.text, one.voice, encode(codec, one)) for one in said])


def _say_quality(codec: Codec, said: list[Utterance]) -> None:
    """Print how near the spectra are that come back, how many codes are in use, and how well code 0 tells phonemes."""
    with torch.inference_mode():
        distances, codes, right = list[float](), list[Tensor](), list[float]()
        for one in said:
            mel = codec.normalise(mel_of(one)[None])
            coded = codec.encode(mel)
            distances.append(functional.l1_loss(codec.decode(coded.semantic, coded.acoustic), mel).item())
            codes.append(coded.codes[0])
            scores = codec.phonemes(coded.semantic[0]).view(-1, LABELS_PER_FRAME, PHONEMES)
            right.append((scores.argmax(-1) == torch.from_numpy(one.phonemes)).float().mean().item())
    used = torch.cat(codes)
    shares = torch.stack([torch.bincount(used[:, k], minlength=CODEBOOK) / len(used) for k in range(CODEBOOKS)])
    perplexity = torch.exp(-(shares * (shares + 1e-9).log()).sum(1)).int().tolist()
    print(f"codec: mel distance {np.mean(distances):.4f}, phonemes right {np.mean(right):.3f}, codes used {perplexity}")


def main() -> None:
    shards = make_corpus()
    said = [one for shard in shards[:TRAINING_SHARDS] for one in read_shard(shard)]
    codec = train_codec(said, checkpoint(), SCHEDULE)
    _say_quality(codec, said[:60])
    encode_corpus(codec, shards, cache_folder("speech") / "codes")


def load_codec() -> Codec:
    codec = Codec()
    load(checkpoint(), codec)
    return codec


if __name__ == "__main__":
    main()
