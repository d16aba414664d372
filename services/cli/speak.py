"""`antiphon speak`: a text, read aloud."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from services.cli.client.completion import derailed
from services.cli.client.errors import ClientError, UsageError
from services.cli.client.events import read_events
from services.cli.client.given_text import given_text
from services.cli.client.player import Player
from services.cli.client.screen import Screen
from services.cli.client.server import add_server_arguments, open_server
from services.cli.client.speech_file import SpeechFile
from services.cli.completion import complete_files

_PATH = "/audio/speech"


def add_speak_command(commands: Any) -> None:
    """Add `speak` to the subparsers of `antiphon`."""
    about = "Read a text aloud: through this machine's sound device, or into a file."
    speak = commands.add_parser("speak", help="read a text aloud", description=about)
    speak.add_argument("text", metavar="TEXT", nargs="?", help="default: standard input")
    out = speak.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="its name chooses wav, mp3, opus, flac, aac or pcm"
    )
    complete_files(out)
    speak.add_argument("--voice", metavar="NAME", help="default: the model's own")
    speak.add_argument("--instructions", metavar="TEXT", help="how it shall be said")
    speak.add_argument("--speed", metavar="N", type=float, help="1 = as it comes")
    speak.add_argument("--json", action="store_true", help="with -o: print the file and its usage as one line of JSON")
    speak.add_argument("--model", metavar="NAME", help="default: the server's only one")
    add_server_arguments(speak)
    speak.set_defaults(run=_run)


def _run(options: argparse.Namespace, _: Sequence[str]) -> int:
    text = given_text(options.text, "the text")
    if not text.strip():
        raise UsageError("There is nothing to say: the text is empty.")
    if options.json and not options.output:
        raise UsageError("--json tells of a file. Name it: -o speech.wav")
    screen = Screen()
    with open_server(options) as server, SpeechFile(options.output) if options.output else Player() as sound:
        model = server.model(options.model)
        asked = {
            "model": model,
            "input": text,
            # OpenAI's API has no default.
            "voice": options.voice or server.default_voice(model),
            # This endpoint has a name of its own for samples without a header.
            "response_format": "pcm" if sound.format == "pcm16" else sound.format,
            "instructions": options.instructions,
            "speed": options.speed,
            # Bare bytes could not tell where a limit cut the speech, or an error ended it.
            "stream_format": "sse",
        }
        given = {name: value for name, value in asked.items() if value is not None}
        with screen.answer(), server.stream(server.post_json(_PATH, given)) as response:
            done = _take(response, sound)
    if options.json:
        sys.stdout.write(json.dumps({"file": str(options.output), **done}, ensure_ascii=False) + "\n")
    elif options.output:
        screen.remark(f"The speech is in {options.output}.")
    if cut := _why_cut(done):
        screen.complain(cut)  # to whoever uses the file, too
    return 0


def _take(response: httpx.Response, sound: SpeechFile | Player) -> dict[str, Any]:
    """Pass the speech on as it comes. Return what its end tells. Raise ClientError where it breaks off."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        for data in response.iter_bytes():  # a server without events ignores the wish
            sound.write(data)
        return {}
    done: dict[str, Any] | None = None
    for event in read_events(response):
        if event.get("type") == "speech.audio.delta":
            sound.write(base64.b64decode(event["audio"]))
        if event.get("type") == "speech.audio.done":
            done = event
    if done is None:
        raise ClientError("The connection ended before the speech did.")
    return {name: value for name, value in done.items() if name != "type"}


def _why_cut(done: dict[str, Any]) -> str:
    """Return what to say where the speech did not end by itself, else ""."""
    if why := done.get("antiphon_derailment"):
        return derailed(why)
    if done.get("finish_reason") != "length":
        return ""
    limit = f", {done['antiphon_limit']}" if done.get("antiphon_limit") else ""
    return f"The speech reached a limit and is cut off there (finish_reason length{limit})."
