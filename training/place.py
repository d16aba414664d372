"""Puts the assembled checkpoints into the tree, where the local stack takes its default from.

    python -m training.place [KIND …]

The files that are committed there are what this leaves. It replaces each kind's folder as a whole.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.trained import TRAINED_DIR
from training.cache import cache_folder
from training.files import replace_folder
from training.options import parse_options, stage_parser


def place(kind: Kind, source: Path, target: Path) -> Path:
    """Copy a checkpoint from folder `source` to `target`/<name>; return that. Raises FileNotFoundError, then nothing is
    changed."""
    placed = target / kind.trained_name

    def copy(scratch: Path) -> None:
        shutil.copytree(source / kind.trained_name, scratch)

    replace_folder(placed, copy)
    return placed


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("kinds", type=Kind, nargs="*", metavar="KIND", help=f"of {', '.join(Kind)}; without one, all")
    given = parse_options(parser)
    for kind in given.kinds or list(Kind):
        print(place(kind, cache_folder("checkpoints"), TRAINED_DIR), flush=True)


if __name__ == "__main__":
    main()
