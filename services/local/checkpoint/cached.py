"""Takes a random checkpoint from the cache, and builds it where it is missing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from services.local.checkpoint.kinds import Kind

WRITERS = ("transformers", "tokenizers", "safetensors")
"""Another version of these may write other bytes."""


def _say_nothing(_: str) -> None:
    pass


def cached_checkpoint(kind: Kind, cache_dir: Path, say: Callable[[str], None] = _say_nothing) -> Path:
    """The folder of a random checkpoint under `cache_dir`, built there if it is missing (10 MB, some seconds).

    `say` is told before it is built.

    Builders may run at once: each writes a folder of its own and renames it; the first one's stays. A change of the
    builder or of the libraries that write the files gives another folder.
    """
    folder = cache_dir / "checkpoints" / _fingerprint() / kind.folder_name
    if folder.is_dir():
        return folder
    say(f"building a tiny checkpoint of random weights, once: {folder} …")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{kind}-") as scratch:
        built = Path(scratch) / kind.folder_name
        _build_apart(kind, built)
        try:
            built.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another builder was first
                raise
    return folder


def _build_apart(kind: Kind, folder: Path) -> None:
    """In a process of its own: torch and transformers stay out of this one, and their chatter out of its output."""
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}
    command = (sys.executable, "-m", "services.local.checkpoint.build", kind, str(folder))
    built = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True)  # noqa: S603  # our own
    if built.returncode:
        raise RuntimeError(f"the tiny checkpoint could not be built:\n{built.stderr}")


def _fingerprint() -> str:
    digest = hashlib.sha256(" ".join(map(version, WRITERS)).encode())
    for source in sorted(Path(__file__).parent.glob("*.*")):
        if source.suffix in {".py", ".txt"}:
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]
