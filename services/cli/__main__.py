"""The command `antiphon`."""

from __future__ import annotations

import argparse
import os
import sys

from services.cli.admin import add_admin_command
from services.cli.batch import add_batch_command
from services.cli.caption import add_caption_command
from services.cli.chat import add_chat_command
from services.cli.client.errors import ClientError
from services.cli.completion import add_completion_command
from services.cli.models import add_models_command
from services.cli.speak import add_speak_command
from services.cli.transcribe import add_transcribe_command
from services.cli.usage import add_usage_command
from services.sizing.cli import add_size_command

_INTERRUPTED = 130
"""The status by which shells know that Ctrl-C ended a command."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands. Each sets `run`, which takes the options and the arguments as given."""
    parser = argparse.ArgumentParser(prog="antiphon", description="Use an Antiphon server, and operate one.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_chat_command(commands)
    add_speak_command(commands)
    add_transcribe_command(commands)
    add_caption_command(commands)
    add_batch_command(commands)
    add_models_command(commands)
    add_size_command(commands)
    add_admin_command(commands)
    add_usage_command(commands)
    add_completion_command(commands, parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the console script `antiphon` and return its status: 0, 1 where it was refused, 2 for a wrong option."""
    given = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(given)
    try:
        status = options.run(options, given)
        sys.stdout.flush()
    except ClientError as error:
        sys.stderr.write(f"{error}\n")
        return error.status
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of standard output has left, and Python would say so once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == "__main__":
    raise SystemExit(main())
