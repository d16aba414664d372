"""Where data and checkpoints of the training are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Return $ANTIPHON_TRAINING, else ~/.cache/antiphon/training."""
    return Path(os.environ.get("ANTIPHON_TRAINING") or Path.home() / ".cache/antiphon/training")


def cache_folder(part: str) -> Path:
    """Return the folder of a part ("speech", "mind", "checkpoints"), made if need be."""
    folder = cache_root() / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder
