"""`antiphon completion`: scripts with which a shell completes this command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import shtab

SHELLS = ("bash", "zsh", "fish")
_ABOUT = """Print a script that completes `antiphon`. For bash, put the line eval "$(antiphon completion bash)" into
~/.bashrc; for zsh, the same with zsh into ~/.zshrc; for fish: antiphon completion fish >
~/.config/fish/completions/antiphon.fish"""


def complete_files(argument: argparse.Action) -> None:
    """Let shells complete the names of files for this argument."""
    argument.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]  # shtab reads it


def add_completion_command(commands: Any, parser: argparse.ArgumentParser) -> None:
    """Add `completion` to the subparsers of `antiphon`, which is `parser`."""
    completion = commands.add_parser("completion", help="complete this command in a shell", description=_ABOUT)
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace, _: Sequence[str]) -> int:
    sys.stdout.write(shtab.complete(parser, options.shell) + "\n")
    return 0
