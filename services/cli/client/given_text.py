"""The text that a command was given: as an argument, or on standard input."""

from __future__ import annotations

import sys

from services.cli.client.errors import UsageError


def given_text(argument: str | None, what: str) -> str:
    """Return the argument or, without one, standard input. Raise UsageError where neither is there, naming `what`."""
    if argument is not None:
        return argument
    if sys.stdin.isatty():
        raise UsageError(f"Give {what} as an argument or on standard input.")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise UsageError("Standard input is not UTF-8 text.") from None
