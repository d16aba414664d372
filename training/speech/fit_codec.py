"""Fits the codec to the corpus, then encodes all of it: `python -m training.speech.fit_codec`."""

from __future__ import annotations

from pathlib import Path

import torch

from services.local.checkpoint.architecture import CODEBOOKS
from training.cache import cache_folder
from training.config import CODEBOOK
from training.options import parse_options, stage_parser
from training.speech.codec import Codec, fit, patches
from training.speech.codes import CodedUtterance, write_codes
from training.speech.corpus import Utterance, make_corpus, read_shard

FITTED_SHARDS = 4


def codec_file() -> Path:
    return cache_folder("speech") / "codec.pt"


def codes_folder() -> Path:
    return cache_folder("speech") / "codes"


def load_codec() -> Codec:
    return Codec.load(codec_file())


def encode_corpus(codec: Codec, shards: list[Path], folder: Path) -> None:
    """Write each shard's codes beside its texts and voices; those that exist stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        if not (file := folder / shard.name).is_file():
            write_codes(file, [encode(codec, one) for one in read_shard(shard)])


def encode(codec: Codec, one: Utterance) -> CodedUtterance:
    return CodedUtterance(one.text, one.voice, codec.encode(one), torch.from_numpy(one.words))


def describe(codec: Codec, said: list[Utterance]) -> str:
    """Tell how near the spectra are that come back, and how many codes of each codebook are in use."""
    codes = torch.cat([codec.encode(one) for one in said])
    wanted = torch.cat([patches(one) for one in said])
    error = (codec.decode(codes) - wanted).square().mean().sqrt()
    shares = torch.stack([torch.bincount(codes[:, k], minlength=CODEBOOK) / len(codes) for k in range(CODEBOOKS)])
    used = torch.exp(-(shares * (shares + 1e-9).log()).sum(1)).int().tolist()
    return f"log-mel error {error:.3f} of {wanted.std():.3f}, codes in use {used}"


def main() -> None:
    parse_options(stage_parser(__doc__))
    shards = make_corpus()
    if not codec_file().is_file():
        said = [one for shard in shards[:FITTED_SHARDS] for one in read_shard(shard)]
        codec = fit(said)
        codec.save(codec_file())
        print(f"codec: {describe(codec, said[:60])}", flush=True)
    encode_corpus(load_codec(), shards, codes_folder())


if __name__ == "__main__":
    main()
