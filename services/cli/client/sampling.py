"""The options that say how an answer is sampled."""

from __future__ import annotations

import argparse
from typing import Any

_NUMBERS: tuple[tuple[str, type, str], ...] = (
    ("temperature", float, "0 = always the most probable token"),
    ("top_p", float, "keep the most probable tokens that sum up to this"),
    ("top_k", int, "keep this many tokens"),
    ("min_p", float, "drop tokens less probable than this share of the first"),
    ("presence_penalty", float, "from -2 to 2"),
    ("frequency_penalty", float, "from -2 to 2"),
    ("repetition_penalty", float, "1 = none"),
    ("max_tokens", int, "longest answer, in tokens"),
    ("seed", int, "the same seed gives the same answer"),
)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field of the API that samples."""
    group = parser.add_argument_group("sampling", "Without a flag, the model's own default counts.")
    for name, kind, about in _NUMBERS:
        group.add_argument(f"--{name.replace('_', '-')}", metavar="N", type=kind, help=about)
    group.add_argument("--stop", metavar="TEXT", action="append", help="end the answer before this text; repeatable")


def sampling_fields(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the request that the user set."""
    given = {name: getattr(options, name) for name in (*(name for name, _, _ in _NUMBERS), "stop")}
    return {name: value for name, value in given.items() if value is not None}
