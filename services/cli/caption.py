"""`antiphon caption`: what is to be heard in a sound, in words."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from services.cli.client.completion import PATH, stream_answer
from services.cli.client.media import MediaKind, Medium, user_message
from services.cli.client.sampling import add_sampling_arguments, sampling_fields
from services.cli.client.screen import Screen
from services.cli.client.server import add_server_arguments, open_server
from services.cli.completion import complete_files


def add_caption_command(commands: Any) -> None:
    """Add `caption` to the subparsers of `antiphon`."""
    about = "Describe what is to be heard in a sound, by a captioner model."
    caption = commands.add_parser("caption", help="describe sounds in words", description=about)
    sounds = caption.add_argument("sounds", metavar="FILE", nargs="+", help="a sound, or a URL that the server fetches")
    complete_files(sounds)
    caption.add_argument("--json", action="store_true", help="print the API's whole answer, a line for each sound")
    caption.add_argument("--model", metavar="NAME", help="default: the server's only captioner")
    add_sampling_arguments(caption)
    add_server_arguments(caption)
    caption.set_defaults(run=_run)


def _run(options: argparse.Namespace, _: Sequence[str]) -> int:
    # A captioner takes one sound and no text.
    questions = [user_message("", [Medium(MediaKind.AUDIO, sound)]) for sound in options.sounds]
    screen = Screen()
    with open_server(options) as server:
        fixed = {"model": server.model(options.model, captioner=True), **sampling_fields(options)}
        for sound, question in zip(options.sounds, questions, strict=True):
            body = {**fixed, "messages": [question]}
            if options.json:
                told = server.whole(server.post_json(PATH, body), "choices")
                sys.stdout.write(json.dumps({"file": sound, **told}, ensure_ascii=False) + "\n")
                sys.stdout.flush()
            else:
                if len(questions) > 1:
                    screen.text(f"{sound}:\n")
                stream_answer(server, body, screen)
    return 0
