"""`python -m deploy.grafana` writes the dashboards' JSON beside this file; a test compares it."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.boards import BOARDS

FOLDER = Path(__file__).parent


def rendered() -> dict[str, str]:
    """File name → JSON."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {f"{board.uid}.json": encoder.encode(board.build().build()) + "\n" for board in BOARDS}


if __name__ == "__main__":
    for name, text in rendered().items():
        (FOLDER / name).write_text(text)
        sys.stdout.write(f"wrote {name}\n")
