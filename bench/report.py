"""Output of a bench's figures: to the screen and, with --json, into a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path


def arguments_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with --json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="where the figures go too")
    return parser


def report(figures: Mapping[str, object], path: Path | None) -> None:
    text = json.dumps(figures, indent=2)
    print(text)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
