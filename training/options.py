"""The option that all stages have: how many threads torch takes."""

from __future__ import annotations

import argparse

import torch


def stage_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    # Models so small gain nothing by two threads. Beside other processes, threads that wait for each other cost many
    # times the work.
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    return parser


def parse_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and give torch its threads."""
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return given
