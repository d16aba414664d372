"""Puts the trained parts together into a checkpoint that transformers, vLLM and the talker's service load.

    python -m training.assemble instruct|thinking|captioner [FOLDER] [--without-speech]

It says how many steps each part has been trained for, and takes parts of which the training has not ended. Weights are
stored in fp16. The config says fp32, in which thinker and talker compute.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3OmniMoeForConditionalGeneration

from services.local.checkpoint.build import drop_speech_configs
from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.processor import write_processor
from services.local.checkpoint.tokenizer import write_files
from services.local.checkpoint.weights import generation_config
from training.cache import cache_folder
from training.config import make_config
from training.files import replace_folder
from training.mind.trained import trained_thinker
from training.options import parse_options, stage_parser
from training.speech.train_code2wav import load_code2wav
from training.speech.train_talker import load_talker
from training.world.tokenizer import build_tokenizer, vocab_size


class UntrainedPartError(Exception):
    """A part that the checkpoint needs has not been trained yet."""


def assemble(kind: Kind, folder: Path, weights: dict[str, Tensor], *, speaks: bool) -> None:
    """Write the checkpoint into `folder`, which must not exist.

    weights: by their names in the whole model. speaks: with talker and code2wav. Raises UntrainedPartError where
    weights are missing, ValueError where there are others, FileExistsError.
    """
    tokenizer, ids = build_tokenizer()
    config = make_config(ids, vocab_size(tokenizer), speaks=speaks)
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
    if not speaks:
        drop_speech_configs(folder / "config.json")
    write_processor(folder, kind)
    for file in folder.iterdir():
        file.chmod(0o644)


def trained_weights(kind: Kind, *, speaks: bool) -> dict[str, Tensor]:
    """Read what the parts have learned, fp16. Raises UntrainedPartError where one has not been begun."""
    try:
        parts = {"thinker": trained_thinker(kind, cache_folder("mind"))}
        if speaks:
            parts |= {"talker": load_talker().talker, "code2wav": load_code2wav()}
    except FileNotFoundError as missing:
        raise UntrainedPartError(f"{missing.filename} is missing: that stage has not been run") from missing
    return weights_of(parts)


def weights_of(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Return fp16 tensors by the names that they have in the whole model."""
    return {
        f"{part}.{name}": values.detach().to(torch.float16)
        for part, module in parts.items()
        for name, values in module.state_dict().items()
    }


def _compute_in_fp32(config_json: Path) -> None:
    text = config_json.read_text(encoding="utf-8").replace('"float16"', '"float32"')
    config_json.write_text(json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("kind", type=Kind, choices=list(Kind))
    parser.add_argument("folder", type=Path, nargs="?", help="must not exist; default: the cache's, which is replaced")
    parser.add_argument("--without-speech", action="store_true", help="leave out talker and code2wav")
    given = parse_options(parser)
    kind: Kind = given.kind
    speaks = kind.speaks and not given.without_speech
    weights = trained_weights(kind, speaks=speaks)
    if given.folder:
        assemble(kind, given.folder, weights, speaks=speaks)
        return
    folder = cache_folder("checkpoints") / kind.trained_name
    replace_folder(folder, lambda path: assemble(kind, path, weights, speaks=speaks))
    print(folder, flush=True)


if __name__ == "__main__":
    main()
