"""Where data, checkpoints and logs of the training are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(part: str) -> Path:
    """Return the folder of a part ("speech", "mind"), made if need be: $ANTIPHON_TRAINING/part, else under ~/.cache."""
    root = os.environ.get("ANTIPHON_TRAINING") or Path.home() / ".cache/antiphon/training"
    folder = Path(root) / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder
