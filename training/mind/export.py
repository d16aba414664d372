"""Writes what the stages have learned: the thinker's weights for each kind, and whole checkpoints to look at.

`python -m training.mind.export KIND` writes KIND.safetensors into the cache: fp16, with the names that a thinker has in
transformers' Qwen3OmniMoeForConditionalGeneration. With a folder it also writes a checkpoint that transformers and vLLM
load. It has no talker: assembling adds Instruct's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.weights import generation_config
from training.cache import cache_folder
from training.config import make_config
from training.mind.model import new_thinker, tokenizer_and_ids
from training.mind.sequence import write_front
from training.mind.stage import load_into
from training.mind.thinker import Language
from training.world.tokenizer import vocab_size

STAGES = {
    Kind.INSTRUCT: ("joint", "thinker-bank", "thinker-imagined"),
    Kind.THINKING: ("joint", "thinker-bank", "thinker-imagined"),
    Kind.CAPTIONER: ("captioner",),
}
"""Whose language model a kind has: the furthest stage that there is."""


def trained(kind: Kind, work: Path) -> Any:
    """Return the thinker of a kind, in evaluation mode. Raise FileNotFoundError where no stage has been run."""
    thinker = new_thinker(1)
    load_into(work / "vision.pt", {"visual": thinker.visual})
    load_into(work / "audio.pt", {"tower": thinker.audio_tower})
    stage = next((name for name in STAGES[kind] if (work / f"{name}.pt").exists()), None)
    if stage is None:
        raise FileNotFoundError(work / f"{STAGES[kind][-1]}.pt")
    if stage == "joint":
        load_into(work / "joint.pt", {"thinker": thinker})
    else:
        load_into(work / f"{stage}.pt", {"language": Language(thinker)})
    return thinker.eval()


def weights_of(thinker: Any) -> dict[str, Tensor]:
    """Return fp16 tensors by the names of the whole model."""
    return {f"thinker.{name}": values.detach().half().contiguous() for name, values in thinker.state_dict().items()}


def write_checkpoint(folder: Path, kind: Kind, weights: dict[str, Tensor]) -> None:
    """Write a checkpoint of the thinker alone: config, weights, tokenizer, processor, template, generation config.

    Weights are fp16, and the config asks to compute in float32, as the local stack does.
    """
    write_front(folder, kind)
    tokenizer, ids = tokenizer_and_ids()
    config: Any = make_config(kind, ids, vocab_size(tokenizer))
    config.enable_audio_output = False
    config.dtype = "float32"
    described = json.loads(config.to_json_string())
    for part in ("talker_config", "code2wav_config"):
        described.pop(part, None)
    (folder / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    generation_config(kind, ids).save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for file in folder.iterdir():
        file.chmod(0o644)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("kind", type=Kind, choices=list(Kind))
    options.add_argument("folder", type=Path, nargs="?")
    options.add_argument("--work", type=Path, default=cache_folder("mind"))
    given = options.parse_args()
    with torch.inference_mode():
        weights = weights_of(trained(given.kind, given.work))
    save_file(weights, given.work / f"{given.kind}.safetensors", {"format": "pt"})
    if given.folder:
        write_checkpoint(given.folder, given.kind, weights)


if __name__ == "__main__":
    main()
