"""Writes a lock file from pip's report of a resolved install, standard input to standard output; see `make lock`."""

from __future__ import annotations

import json
import sys
from typing import Any

UNLOCKED = frozenset({"antiphon", "torchaudio", "torchcodec", "triton"})
"""The project itself, and what is of one build with torch, which pins or replaces it."""

OLDER_PYTHON = {"async-timeout": "5.0.1"}
"""What redis needs before Python 3.11.3, and what a newer Python therefore does not resolve."""

HEADER = """\
# Exact versions of all that the project installs; `make lock` writes it, `make setup` obeys it (pip -c).
"""


def lock_text(report: dict[str, Any]) -> str:
    """Return sorted lines of `name==version`, without local labels (+cpu), so that any build of a version fits."""
    found = OLDER_PYTHON | {
        item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"].partition("+")[0]
        for item in report["install"]
    }
    return HEADER + "".join(f"{name}=={found[name]}\n" for name in sorted(found.keys() - UNLOCKED))


if __name__ == "__main__":
    sys.stdout.write(lock_text(json.load(sys.stdin)))
