"""Puts the trained parts together into a checkpoint folder: `python -m training.assemble KIND FOLDER`.

Weights are stored in fp16 and the config says fp32: the services compute in fp32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen3OmniMoeForConditionalGeneration

from services.local.checkpoint.build import drop_speech_configs
from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.processor import write_processor
from services.local.checkpoint.tokenizer import write_files
from services.local.checkpoint.weights import generation_config
from training.cache import cache_folder
from training.config import make_config
from training.world.tokenizer import build_tokenizer, vocab_size

SPEECH_PARTS = ("talker", "code2wav")


class UntrainedPartError(Exception):
    """A part that the kind needs has not been trained yet."""


def assemble(kind: Kind, folder: Path, weights: dict[str, Tensor]) -> None:
    """Write the checkpoint into `folder`, which must not exist.

    weights: by their names in the whole model. Raises UntrainedPartError where some are missing, ValueError where there
    are others.
    """
    tokenizer, ids = build_tokenizer()
    config = make_config(kind, ids, vocab_size(tokenizer))
    model: Any = Qwen3OmniMoeForConditionalGeneration(config).half().eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing:
        parts = sorted({name.split(".")[0] for name in missing})
        raise UntrainedPartError(f"not trained yet: {', '.join(parts)}, for example {missing[0]}")
    if unexpected:
        raise ValueError(f"the model has no {unexpected[0]}")
    folder.mkdir(parents=True)
    write_files(folder, tokenizer, ids)
    model.generation_config = generation_config(kind, ids)
    model.save_pretrained(folder)
    _compute_in_fp32(folder / "config.json")
    if not kind.speaks:
        drop_speech_configs(folder / "config.json")
    write_processor(folder, kind)
    for file in folder.iterdir():
        file.chmod(0o644)


def trained_weights(kind: Kind) -> dict[str, Tensor]:
    """Read the parts that a kind has from the cache, as far as they are trained."""
    files = [cache_folder("mind") / f"{kind}.safetensors"]
    files += [cache_folder("speech") / f"{part}.safetensors" for part in SPEECH_PARTS if kind.speaks]
    weights: dict[str, Tensor] = {}
    for file in files:
        if file.is_file():
            weights |= {name: value.to(torch.float16) for name, value in load_file(file).items()}
    return weights


def _compute_in_fp32(config_json: Path) -> None:
    text = config_json.read_text(encoding="utf-8").replace('"float16"', '"float32"')
    config_json.write_text(json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", type=Kind, choices=list(Kind))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    assemble(given.kind, given.folder, trained_weights(given.kind))


if __name__ == "__main__":
    main()
