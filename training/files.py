"""Files that are whole or absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside the path, then rename it: a run that is killed leaves no half file."""
    scratch = path.with_name(f".{path.name}.part")
    write(scratch)
    scratch.replace(path)
