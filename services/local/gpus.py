"""The GPUs of this machine. `python -m services.local.gpus` refuses one without any: nothing need be installed, so that
`make` asks before it installs what only a GPU can run."""

from __future__ import annotations

import subprocess
import sys

from services.local.errors import WrongOptionError


def count_gpus() -> int:
    """At least one. Raises WrongOptionError."""
    try:
        listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, check=True, text=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        listing = None
    # Beside one line for each GPU it may say that there is none, or list a GPU's slices, indented.
    found = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")] if listing else []
    if not found:
        raise WrongOptionError("GPU=1: nvidia-smi finds no GPU on this machine; without GPU=1 all runs on its CPU")
    return len(found)


if __name__ == "__main__":
    try:
        count_gpus()
    except WrongOptionError as error:
        sys.exit(str(error))
