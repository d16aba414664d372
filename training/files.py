"""Files and folders that are whole or absent: a run that is killed leaves no half ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside the path, then rename it."""
    scratch = _scratch(path)
    write(scratch)
    scratch.replace(path)


def save_arrays(path: Path, **arrays: ArrayLike) -> None:
    """Write an .npz file."""

    def write(scratch: Path) -> None:
        with scratch.open("wb") as file:  # of a path numpy would change the suffix
            np.savez(file, allow_pickle=False, **{name: np.asarray(values) for name, values in arrays.items()})

    write_atomically(path, write)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a folder that does not exist yet, then put it in the place of the one that is there."""
    scratch = _scratch(folder)
    shutil.rmtree(scratch, ignore_errors=True)
    write(scratch)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def _scratch(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
