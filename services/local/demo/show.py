"""Runs the demo: starts a stack, asks, and shows the answers with their timings."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import time
import wave
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from openai import AsyncOpenAI, OpenAIError

from services.cli.client.errors import UsageError
from services.cli.client.player import Player
from services.local.cache import default_cache_dir
from services.local.checkpoint import Kind
from services.local.demo.ask import SAMPLE_BYTES, SAMPLE_RATE, DemoAnswer, ask
from services.local.demo.media import Medium
from services.local.demo.questions import Conversation, any_world, small_world
from services.local.demo.timings import read_rows
from services.local.errors import DemoFailedError
from services.local.greeting import about, departure, hears_only, is_random
from services.local.hearing import plain, transcribe
from services.local.plan import StackOptions
from services.local.stack import LocalStack

PAUSE_S = 0.5
"""Between the answers in the file."""


async def show(options: StackOptions, answer_wav: Path) -> None:
    """Start the stack, ask, write `answer_wav` if the model speaks, play it if possible, and stop the stack.

    What it asks with is left beside the answer.

    Raise DemoFailedError or StartFailedError.
    """
    conversations = await asyncio.to_thread(_conversations, options.served_name)
    media = [medium for conversation in conversations for question in conversation for medium in question.media]
    _keep(answer_wav.parent, media)
    stack = LocalStack(options, os.environ, say=_say)
    _say(departure(stack.log_dir, options))
    began_s = time.monotonic()
    async with stack:
        _say(f"ready after {time.monotonic() - began_s:.0f} s at {stack.url}\n")
        if told := about(options.served_name):
            _say(told + "\n")
        client = AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=options.api_key or "none", max_retries=0)
        async with client:
            await client.models.list()  # opens the connection, so that the times are the answers' own
            try:
                answers = [
                    answer
                    for conversation in conversations
                    for answer in await hold(client, options.served_name, conversation, speaks=options.speaks)
                ]
            except OpenAIError as error:
                raise DemoFailedError(f"the stack did not answer: {error}") from None
        _report(answers, await asyncio.to_thread(read_rows, stack.metrics_url))
    _say("\nAll services have ended.")
    if options.speaks:
        await _give_speech(answers, answer_wav)
    if is_random(options.served_name):
        _say("Noise, as it should be: the weights are random.")


def _conversations(served_name: str) -> list[Conversation]:
    cache_dir = default_cache_dir(os.environ)
    kind = next((kind for kind in Kind if kind.trained_name == served_name), None)
    if kind:
        return small_world(kind, cache_dir)
    return any_world(hears_only=hears_only(served_name), cache_dir=cache_dir)


def _keep(folder: Path, media: Iterable[Medium]) -> None:
    """Leave what is asked with beside the answer, so that it can be asked again."""
    folder.mkdir(parents=True, exist_ok=True)
    for medium in media:
        (folder / medium.file).write_bytes(medium.data)


async def hold(client: AsyncOpenAI, model: str, conversation: Conversation, *, speaks: bool) -> list[DemoAnswer]:
    """Ask a conversation's questions, each after the answers before it, and show both. Raise OpenAIError."""
    messages: list[dict[str, object]] = []
    answers: list[DemoAnswer] = []
    for question in conversation:
        messages.append(question.message)
        _say("\n".join(question.lines()))
        _write("It says   ")
        answer = await ask(
            client, model, messages, speaks=speaks, uses_films_sound=question.has_film, on_text=_write_text
        )
        _say("")
        if remarks := await asyncio.to_thread(_remarks, answer, question.truth, check_speech=not is_random(model)):
            _say(textwrap.indent("\n".join(remarks), " " * 10))
        _say("")
        messages.append(answer.message)
        answers.append(answer)
    return answers


def _remarks(answer: DemoAnswer, truth: str, *, check_speech: bool) -> list[str]:
    """Say whether the answer is right, and whether its speech is its text."""
    told: list[str] = []
    if truth:
        right = answer.text.strip() == truth
        told.append("(That is right.)" if right else f"(That is wrong. It should say: {truth})")
    if answer.pcm and check_speech:
        told.append(hearing_remark(answer.text, np.frombuffer(bytes(answer.pcm), "<i2")))
    return told


def hearing_remark(text: str, samples: np.ndarray[tuple[int], np.dtype[np.int16]]) -> str:
    """Say whether Whisper hears the text in its speech, [samples] at 24 kHz."""
    heard = transcribe(samples.astype(np.float32) / np.float32(32768))
    return "(Whisper hears the same words.)" if heard == plain(text) else f"(Whisper hears: {heard or 'nothing'})"


def _report(answers: Sequence[DemoAnswer], rows: list[tuple[str, float]]) -> None:
    _say("As the client saw it:")
    for number, answer in enumerate(answers, 1):
        usage = answer.usage
        details = usage.completion_tokens_details
        frames = (details and details.audio_tokens) or 0
        spoken = f" and {frames} codec frames" if frames else ""
        lines = [f"{usage.prompt_tokens} tokens in, {usage.completion_tokens - frames} out{spoken}"]
        times = {"first text": answer.first_text_s, "first audio": answer.first_audio_s, "whole": answer.total_s}
        lines.append(", ".join(f"{name} after {value_s:.3f} s" for name, value_s in times.items() if value_s))
        if answer.audio_s:
            factor = answer.total_s / answer.audio_s
            lines.append(f"real-time factor {factor:.2f} (time to answer over length of speech)")
        _say(textwrap.indent("\n".join(lines), "     ").replace("    ", f"  {number}.", 1))
    _say("As the gateway measured the stages, on average:")
    for row, mean_s in rows:
        _say(f"  {row:<28}{1000 * mean_s:9.1f} ms")


async def _give_speech(answers: Sequence[DemoAnswer], path: Path) -> None:
    """Write the spoken answers into one file, and play them where a sound device is there."""
    pcm = bytes(int(PAUSE_S * SAMPLE_RATE) * SAMPLE_BYTES).join(bytes(answer.pcm) for answer in answers)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(SAMPLE_BYTES)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm)
    long_s = len(pcm) / SAMPLE_BYTES / SAMPLE_RATE
    _say(f"The spoken {'answers' if len(answers) > 1 else 'answer'}, {long_s:.1f} s: {path}")
    try:
        player = Player()
    except UsageError:
        return  # No sound device: the file is enough.
    with player:  # an interrupt leaves the block, which ends the sound
        player.write(pcm)
        await asyncio.sleep(long_s)


def _write_text(text: str) -> None:
    """Random weights may say control characters: they are nothing for a terminal."""
    _write("".join(character if character.isprintable() or character == "\n" else "·" for character in text))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    _write(text + "\n")
