"""Takes the weights of a checkpoint back into the cache, so that the stages go on from them.

    python -m training.restore [FOLDER]

FOLDER is an Instruct checkpoint; without it, the one in the tree. Each part becomes a stage's file at step 0: the stage
trains it further, and later stages find it. Files that the cache has stay. A checkpoint has no optimizer and no heads
of the towers: the stages begin these anew.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Qwen3OmniMoeForConditionalGeneration

from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.trained import trained_checkpoint
from training.cache import cache_folder
from training.files import write_atomically
from training.mind import audio_tower, vision_tower
from training.mind.thinker import Language
from training.options import parse_options, stage_parser
from training.speech import train_code2wav, train_talker
from training.speech.talker import TinyTalker

_HEAD_SCALE, _BLANK_BIAS = 1.75, 5.0
"""About where the audio tower's head ends. From where it begins, a trained tower would first learn to be sure of
itself, and forget words over it."""


def _hearing(tower: Any) -> nn.ModuleDict:
    model = audio_tower.stage_model(tower)
    head: Any = model["head"]
    with torch.no_grad():
        head.scale.fill_(math.log(_HEAD_SCALE))
        head.bias[audio_tower.BLANK] = _BLANK_BIAS
    return model


def stage_models(model: Any) -> dict[Path, nn.Module]:
    """Return, by a stage's file, what that stage trains, with the weights of a whole model.

    The language model goes where stage `imagined` leaves it: stage `thinker` begins with that.
    """
    thinker, work = model.thinker, cache_folder("mind")
    talker = TinyTalker()
    talker.talker.load_state_dict(model.talker.state_dict())
    return {
        work / "audio.pt": _hearing(thinker.audio_tower),
        work / "vision.pt": vision_tower.stage_model(thinker.visual),
        work / "thinker-imagined.pt": nn.ModuleDict({"language": Language(thinker)}),
        train_talker.checkpoint(): talker,
        train_code2wav.checkpoint(): model.code2wav,
    }


def restore(folder: Path) -> list[Path]:
    """Write the stages' files that the cache lacks, with the weights of an Instruct checkpoint; return their paths."""
    loaded: Any = Qwen3OmniMoeForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    written: list[Path] = []
    for path, model in stage_models(loaded).items():
        if not path.exists():
            state = {"model": model.state_dict(), "step": 0}
            write_atomically(path, lambda scratch, state=state: torch.save(state, scratch))
            written.append(path)
    return written


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="default: the Instruct checkpoint in the tree")
    given = parse_options(parser)
    for path in restore(given.folder or trained_checkpoint(Kind.INSTRUCT)):
        print(path, flush=True)


if __name__ == "__main__":
    main()
