"""Builds a tiny checkpoint into a folder: `python -m services.local.checkpoint.build KIND FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from services.local.checkpoint.config import make_config
from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.processor import write_processor
from services.local.checkpoint.tokenizer import write_tokenizer
from services.local.checkpoint.weights import write_weights


def build_checkpoint(kind: Kind, folder: Path, seed: int | None = None) -> None:
    """Writes the checkpoint's files into `folder`, which must not exist: the same bytes for the same seed.

    Without a seed it is the kind's own. Raises FileExistsError.
    """
    folder.mkdir(parents=True)
    ids = write_tokenizer(folder)
    config = make_config(kind, ids)
    write_weights(folder, kind, config, ids, kind.seed if seed is None else seed)
    if not kind.speaks:
        drop_speech_configs(folder / "config.json")
    write_processor(folder, kind)
    for file in folder.iterdir():
        file.chmod(0o644)


def drop_speech_configs(config_json: Path) -> None:
    """transformers fills in its own defaults, with ids that are none of this checkpoint."""
    config = json.loads(config_json.read_text(encoding="utf-8"))
    for part in ("talker_config", "code2wav_config"):
        config.pop(part, None)
    config_json.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    build_checkpoint(Kind(sys.argv[1]), Path(sys.argv[2]))
