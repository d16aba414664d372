"""The trained checkpoints in the tree, which the local stack serves where no model is named."""

from __future__ import annotations

from pathlib import Path

from services.local.checkpoint.kinds import Kind

TRAINED_DIR = Path(__file__).with_suffix("")
"""Holds a folder for each kind, and README.md: the model card of all three."""


class TrainedFilesMissingError(Exception):
    """This installation has not all files of a trained checkpoint. The message names one, and says what to do."""


def trained_checkpoint(kind: Kind) -> Path:
    """Return the folder of a trained checkpoint. Raise TrainedFilesMissingError."""
    folder = TRAINED_DIR / kind.trained_name
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise TrainedFilesMissingError(
                f"{folder / name} is missing. It is a file of the project's repository: restore it with "
                f"git checkout, or name another checkpoint: --model random (MODEL=random) is made on the spot."
            )
    return folder
