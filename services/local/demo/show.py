"""Runs the demo: starts a stack, asks a question, and shows the answer with its timings."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import time
import wave
from collections.abc import Mapping
from pathlib import Path

from openai import AsyncOpenAI, OpenAIError

from services.local.cache import default_cache_dir
from services.local.demo.ask import SAMPLE_BYTES, SAMPLE_RATE, DemoAnswer, ask, content
from services.local.demo.media import photograph, recording
from services.local.demo.timings import read_rows
from services.local.errors import DemoFailedError
from services.local.greeting import NONSENSE, departure, is_tiny
from services.local.plan import StackOptions
from services.local.stack import LocalStack

QUESTION = "What can you see and hear? Answer in one short sentence."
MAX_TOKENS = 60


async def show(options: StackOptions, answer_wav: Path) -> None:
    """Start the stack, ask, write `answer_wav` if the model speaks, and stop the stack.

    The recording and the photograph are left beside it.

    Raise DemoFailedError or StartFailedError.
    """
    speech, photo = await asyncio.to_thread(recording, default_cache_dir(os.environ)), photograph()
    hears_only = "captioner" in options.served_name.lower()
    _keep(answer_wav.parent, {"question.wav": speech.data, "photograph.png": photo.data})
    stack = LocalStack(options, os.environ, say=_say)
    _say(departure(stack.log_dir, options))
    began_s = time.monotonic()
    async with stack:
        _say(f"ready after {time.monotonic() - began_s:.0f} s at {stack.url}\n")
        if is_tiny(options.served_name):
            _say(NONSENSE + "\n")
        _say(f"It hears  {speech.description}")
        if not hears_only:
            _say(f"It sees   {photo.description}\nIt reads  {QUESTION}")
        parts = content(None if hears_only else photo.data, speech.data, "" if hears_only else QUESTION)
        client = AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=options.api_key or "none", max_retries=0)
        async with client:
            await client.models.list()  # opens the connection, so that the times are the answer's own
            _write("\nIt says   ")
            try:
                answer = await ask(
                    client,
                    options.served_name,
                    parts,
                    speaks=options.speaks,
                    max_tokens=MAX_TOKENS,
                    on_text=_write_text,
                )
            except OpenAIError as error:
                raise DemoFailedError(f"the stack did not answer: {error}") from None
        _say("\n")
        _report(answer, await asyncio.to_thread(read_rows, stack.metrics_url))
    if options.speaks:
        _write_wav(answer_wav, bytes(answer.pcm))
        _say(f"\nThe spoken answer, {answer.audio_s:.1f} s: {answer_wav}")
    if is_tiny(options.served_name):
        _say("Noise, as it should be: the weights are random.")
    _say("All services have ended.")


def _keep(folder: Path, files: Mapping[str, bytes]) -> None:
    """Leave what is asked with beside the answer, so that it can be asked again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _report(answer: DemoAnswer, rows: list[tuple[str, float]]) -> None:
    usage = answer.usage
    details = usage.completion_tokens_details
    frames = (details and details.audio_tokens) or 0
    spoken = f" and {frames} codec frames" if frames else ""
    lines = [
        f"{usage.prompt_tokens} tokens in, {usage.completion_tokens - frames} out{spoken}",
        f"whole answer  {answer.total_s:8.3f} s",
    ]
    for name, value_s in (("first text", answer.first_text_s), ("first audio", answer.first_audio_s)):
        if value_s is not None:
            lines.append(f"{name:<14}{value_s:8.3f} s")
    if answer.audio_s:
        lines.append(f"real-time factor {answer.total_s / answer.audio_s:5.2f}  (time to answer over length of speech)")
    _say("As the client saw it:\n" + textwrap.indent("\n".join(lines), "  "))
    _say("As the gateway measured the stages:")
    for row, seconds in rows:
        _say(f"  {row:<26}{1000 * seconds:8.1f} ms")


def _write_wav(path: Path, pcm: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(SAMPLE_BYTES)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm)


def _write_text(text: str) -> None:
    """Random weights may say control characters: they are nothing for a terminal."""
    _write("".join(character if character.isprintable() or character == "\n" else "·" for character in text))


def _say(text: str) -> None:
    _write(text + "\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
