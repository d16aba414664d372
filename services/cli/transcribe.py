"""`antiphon transcribe`: recordings to text."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from services.cli.client.completion import CUT
from services.cli.client.errors import ClientError, UsageError
from services.cli.client.events import read_events
from services.cli.client.media import media_type
from services.cli.client.screen import Screen
from services.cli.client.server import Send, Server, add_server_arguments, open_server
from services.cli.completion import complete_files

_PATH = "/audio/transcriptions"


def add_transcribe_command(commands: Any) -> None:
    """Add `transcribe` to the subparsers of `antiphon`."""
    about = "Write down what is said in recordings. The text appears as it comes."
    transcribe = commands.add_parser("transcribe", help="recordings to text", description=about)
    files = transcribe.add_argument("files", metavar="FILE", nargs="+", type=Path)
    complete_files(files)
    transcribe.add_argument("--language", metavar="CODE", help="the language spoken, such as en (default: found out)")
    transcribe.add_argument("--prompt", metavar="TEXT", help="names and words that may occur")
    transcribe.add_argument("--temperature", metavar="N", type=float, help="0 = always the most probable token")
    transcribe.add_argument("--json", action="store_true", help="print one line of JSON for each file")
    transcribe.add_argument("--model", metavar="NAME", help="default: the server's only one")
    add_server_arguments(transcribe)
    transcribe.set_defaults(run=_run)


def _run(options: argparse.Namespace, _: Sequence[str]) -> int:
    for path in options.files:
        _check_is_file(path)
    screen = Screen()
    with open_server(options) as server:
        asked = {
            "model": server.model(options.model),
            "response_format": "json",
            "stream": "true",
            "chunking_strategy": "auto",
            "language": options.language,
            "prompt": options.prompt,
            "temperature": options.temperature,
        }
        fields = {name: str(value) for name, value in asked.items() if value is not None}
        for path in options.files:
            if len(options.files) > 1 and not options.json:
                screen.text(f"{path}:\n")
            # The bar moves as the file is read, which is as it is sent; httpx reads it from its start at each try.
            with screen.progress() as bars, bars.open(path, "rb", description=path.name) as file:
                part = path.name, file, media_type(path)
                send = server.post_form(_PATH, fields, part)
                if options.json:
                    told = _transcript(server, send, path.name, screen, bars, show=lambda _: None)
                    sys.stdout.write(json.dumps({"file": str(path), **told}, ensure_ascii=False) + "\n")
                    sys.stdout.flush()
                else:
                    with screen.answer():
                        told = _transcript(server, send, path.name, screen, bars, show=screen.text)
                    if told.get("finish_reason") == "length":
                        screen.complain(CUT)  # to whoever writes it into a file, too
    return 0


def _check_is_file(path: Path) -> None:
    """Raise UsageError where there is no readable file with content."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    if empty:
        raise UsageError(f"{path} is empty.")


def _transcript(
    server: Server, send: Send, name: str, screen: Screen, bars: Progress, show: Callable[[str], None]
) -> dict[str, Any]:
    """Return what the answer's end tells. `show` gets the text as it comes."""
    with server.stream(send) as response, screen.listening() as listening:
        bars.stop()
        # A model that cannot stream ignores the wish.
        if response.headers.get("content-type", "").startswith("application/json"):
            told = server.read_object(response, "text")
            show(told["text"])
            return told
        heard: TaskID | None = None
        for event in read_events(response):
            match event.get("type"):
                case "transcript.text.delta":
                    show(event["delta"])
                case "antiphon.progress":
                    heard = listening.add_task(name) if heard is None else heard
                    listening.update(heard, completed=event["transcribed_s"], total=event["recording_s"])
                case "transcript.text.done":
                    return {field: value for field, value in event.items() if field != "type"}
                case _:
                    pass
    raise ClientError("The connection ended before the text did.")
