"""`antiphon chat`: ask with text, images, sounds and videos; read and hear the answer."""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from services.cli.chat_loop import chat_in_turns
from services.cli.client.completion import PATH, Sound, stream_answer
from services.cli.client.errors import ClientError, UsageError
from services.cli.client.given_text import given_text
from services.cli.client.media import AppendMedium, MediaKind, Medium, content_part, user_message
from services.cli.client.microphone import record
from services.cli.client.player import Player, check_player
from services.cli.client.sampling import add_sampling_arguments, sampling_fields
from services.cli.client.screen import Screen
from services.cli.client.server import Server, add_server_arguments, open_server
from services.cli.client.speech_file import SpeechFile, file_format, numbered
from services.cli.completion import complete_files

_ABOUT = """Ask a question and print the answer as it comes. Without TEXT, a terminal becomes a conversation of several
turns, and anything else on standard input is the question. The text follows the media; "" asks with the media alone."""


def add_chat_command(commands: Any) -> None:
    """Add `chat` to the subparsers of `antiphon`."""
    chat = commands.add_parser("chat", help="ask with text, images, sounds and videos", description=_ABOUT)
    chat.add_argument("text", metavar="TEXT", nargs="?", help="the question")
    for kind in MediaKind:
        flag = chat.add_argument(
            f"--{kind}", action=AppendMedium, default=[], dest="media", metavar="FILE",
            help="a file, or a URL that the server fetches; repeatable, and the order of all media is kept",
        )  # fmt: skip
        complete_files(flag)
    chat.add_argument(
        "--microphone", action="store_true", help="ask with what the microphone records until Enter is pressed"
    )
    chat.add_argument("--audio-in-video", action="store_true", help="hear the sound of the videos, too")
    chat.add_argument("--system", metavar="TEXT", help="what the model shall be or do")
    chat.add_argument("--voice", metavar="NAME", help="hear the answer in this voice; `default` is the model's own")
    out = chat.add_argument(
        "-o", "--output", type=Path, metavar="FILE",
        help="save the speech instead of playing it; its name chooses wav, mp3, opus, flac, aac or pcm",
    )  # fmt: skip
    complete_files(out)
    chat.add_argument("--json", action="store_true", help="print the API's whole answer as one line of JSON")
    chat.add_argument("--model", metavar="NAME", help="default: the server's only one")
    add_sampling_arguments(chat)
    add_server_arguments(chat)
    chat.set_defaults(run=_run)


def _run(options: argparse.Namespace, _: Sequence[str]) -> int:
    in_turns = options.text is None and sys.stdin.isatty() and not options.json and not options.microphone
    if options.output:
        file_format(options.output)
    elif options.voice and not options.json:
        check_player()
    screen = Screen()
    # Before the server is asked: a missing file is the user's to mend.
    if in_turns:
        for medium in options.media:
            content_part(medium)
        question = None
    elif options.microphone:
        sound = Medium(MediaKind.AUDIO, record(screen))
        question = user_message(options.text or "", [*options.media, sound])
    else:
        question = user_message(given_text(options.text, "the question"), options.media)
    with open_server(options) as server:
        body = {"model": server.model(options.model), **sampling_fields(options), **_speech_fields(options)}
        start = [{"role": "system", "content": options.system}] if options.system else []
        if options.audio_in_video:
            body["use_audio_in_video"] = True
        if question is None:
            return chat_in_turns(
                start, options.media, screen, lambda messages, turn: _ask(server, body, messages, options, screen, turn)
            )
        messages = [*start, question]
        if options.json:
            _print_json(server, {**body, "messages": messages}, options.output)
        else:
            _ask(server, body, messages, options, screen, 1)
    return 0


def _ask(
    server: Server,
    body: dict[str, Any],
    messages: list[dict[str, Any]],
    options: argparse.Namespace,
    screen: Screen,
    turn: int,
) -> str:
    with _sound(options, turn) as sound:
        if sound is not None:
            body = {**body, "audio": {**body["audio"], "format": sound.format}}
        answer = stream_answer(server, {**body, "messages": messages}, screen, sound)
    if options.output:
        screen.remark(f"The speech is in {numbered(options.output, turn)}.")
    return answer.text


def _sound(options: argparse.Namespace, turn: int) -> AbstractContextManager[Sound | None]:
    if options.output:
        return SpeechFile(numbered(options.output, turn))
    return Player() if options.voice else nullcontext()


def _speech_fields(options: argparse.Namespace) -> dict[str, Any]:
    if not options.voice and not options.output:
        return {}
    voice = {"voice": options.voice} if options.voice not in (None, "default") else {}
    return {"modalities": ["text", "audio"], "audio": voice}


def _print_json(server: Server, body: dict[str, Any], output: Path | None) -> None:
    if "audio" in body:
        body["audio"]["format"] = file_format(output) if output else "wav"
    completion = server.whole(server.post_json(PATH, body), "choices")
    if output:
        try:
            speech = base64.b64decode(completion["choices"][0]["message"]["audio"].pop("data"))
        except (KeyError, IndexError, TypeError, binascii.Error):
            raise ClientError("The answer has no speech.") from None
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(speech)
        except OSError as error:
            raise UsageError(f"{output} cannot be written: {error.strerror}.") from None
    sys.stdout.write(json.dumps(completion, ensure_ascii=False) + "\n")
