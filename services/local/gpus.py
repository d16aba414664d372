"""The GPUs of this machine, as nvidia-smi lists them. `python -m services.local.gpus` refuses a machine without any.

It needs nothing installed, so that `make` asks before it installs what only a GPU can run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from services.local.errors import WrongOptionError

_FIELDS = ("index", "uuid", "name", "memory.total", "memory.used", "mig.mode.current")
_NONE = "GPU=1: nvidia-smi finds no GPU on this machine. Without GPU=1 everything runs on its CPU."


@dataclass(frozen=True)
class LocalGpu:
    """index: its number in CUDA, as the services see it. total and used in bytes; used by others, before ours start."""

    index: int
    name: str
    total: int
    used: int


def list_gpus(environ: Mapping[str, str]) -> list[LocalGpu]:
    """Return the GPUs that the services will see, at least one. Raise WrongOptionError where there is none, and where
    one's memory cannot be planned."""
    query = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(query, capture_output=True, check=True, text=True).stdout  # noqa: S603  # fixed words
    except (OSError, subprocess.CalledProcessError):
        raise WrongOptionError(_NONE) from None
    return read_listing(listing, environ.get("CUDA_VISIBLE_DEVICES"))


def read_listing(listing: str, visible: str | None) -> list[LocalGpu]:
    """Return the GPUs of nvidia-smi's answer, by CUDA's numbers. visible: CUDA_VISIBLE_DEVICES; None = all."""
    rows = [[cell.strip() for cell in line.split(",")] for line in listing.splitlines()]
    rows = [row for row in rows if len(row) == len(_FIELDS) and row[0].isdigit()]
    if not rows:
        raise WrongOptionError(_NONE)
    chosen = rows if visible is None else _visible(rows, visible)
    if not chosen:
        raise WrongOptionError(
            f"CUDA_VISIBLE_DEVICES={visible} names none of this machine's {len(rows)} GPUs. "
            "Name them by index or UUID, or unset it."
        )
    return [_gpu(number, row) for number, row in enumerate(chosen)]


def _visible(rows: list[list[str]], visible: str) -> list[list[str]]:
    """Return the rows that the variable names; as in CUDA, the first name that is none ends the list."""
    chosen: list[list[str]] = []
    for name in (part.strip() for part in visible.split(",")):
        found = [row for row in rows if name and (row[0] == name or row[1].startswith(name))]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return chosen


def _gpu(number: int, row: list[str]) -> LocalGpu:
    index, _, name, total, used, mig = row
    if mig == "Enabled":
        raise WrongOptionError(
            f"GPU {index} ({name}) is in MIG mode. make up GPU=1 plans whole GPUs: name others in "
            "CUDA_VISIBLE_DEVICES, or turn MIG off. On slices, use the charts or compose."
        )
    if not (total.isdigit() and used.isdigit()):
        raise WrongOptionError(f"nvidia-smi tells no memory size for GPU {index} ({name}), so nothing can be planned.")
    return LocalGpu(number, name, int(total) << 20, int(used) << 20)


if __name__ == "__main__":
    try:
        list_gpus(os.environ)
    except WrongOptionError as error:
        sys.exit(str(error))
