"""A conversation at the terminal."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from services.cli.client.errors import ClientError, UsageError
from services.cli.client.media import MediaKind, Medium, content_part, user_message
from services.cli.client.microphone import record
from services.cli.client.screen import Screen

with contextlib.suppress(ImportError):  # a Python without it has no history of lines
    import readline  # noqa: F401  # pyright: ignore[reportUnusedImport]  # input() uses it

HELP = """\
/image FILE, /audio FILE, /video FILE   attach it to the next message (an empty line sends it without a text)
/record                                 attach what the microphone hears until Enter is pressed
/drop                                   attach nothing
/new                                    forget the conversation
/quit or Ctrl-D                         end; Ctrl-C stops an answer"""
Message = dict[str, Any]
Ask = Callable[[list[Message], int], str]
"""Shows the answer to these messages, which is that of the conversation's so many-th turn, and returns its text."""


def chat_in_turns(start: Sequence[Message], media: Sequence[Medium], screen: Screen, ask: Ask) -> int:
    """Read messages until the user ends, and keep the conversation. Return the exit status.

    `start` begins every conversation. `media` go with the first message. A turn that fails or is stopped is forgotten,
    and its media stay attached.
    """
    screen.remark("/help lists the commands.")
    messages, attached, turn = list(start), list(media), 1
    while True:
        try:
            line = input(f"[{len(attached)} attached] > " if attached else "> ")
        except (EOFError, KeyboardInterrupt):
            screen.remark("")
            return 0
        match _command(line):
            case ("quit", ""):
                return 0
            case ("help", ""):
                screen.remark(HELP)
            case ("new", ""):
                messages, attached = list(start), []
            case ("drop", ""):
                attached = []
            case ("record", ""):
                try:
                    attached.append(Medium(MediaKind.AUDIO, record(screen)))
                except UsageError as error:
                    screen.complain(str(error))
                except KeyboardInterrupt:
                    screen.complain("Stopped. Nothing is attached.")
            case (kind, source) if kind in set(MediaKind) and source:
                medium = Medium(MediaKind(kind), source)
                try:
                    content_part(medium)
                except UsageError as error:
                    screen.complain(str(error))
                else:
                    attached.append(medium)
            case (name, _):
                screen.complain(f"/{name} is not a command, or wants a file. /help lists them.")
            case None if line.strip() or attached:
                try:
                    question = user_message(line, attached)
                    answer = ask([*messages, question], turn)
                except ClientError as error:
                    screen.complain(str(error))
                except KeyboardInterrupt:
                    screen.complain("Stopped. This turn is forgotten.")
                else:
                    messages += [question, {"role": "assistant", "content": answer}]
                    attached, turn = [], turn + 1
            case None:
                pass


def _command(line: str) -> tuple[str, str] | None:
    """Return a command's name and what follows it; None for a message, such as one that begins with a path."""
    found = re.fullmatch(r"/([a-z]+)(?:\s+(.*?))?\s*", line)
    return (found[1], found[2] or "") if found else None
