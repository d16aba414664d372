"""Spoken answers of the small world's model, and whether each is heard as its text."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import openai

from services.local.demo.media import spoken
from tests.e2e.asking import Asked, Heard
from tests.fixtures.stack import Stack
from tests.semantic.ear import words_in
from training.hearing import word_error_rate

VOICES = ("chelsie", "ethan", "aiden")
MAX_TOKENS = 40
SEED = 5
MOST_ERRORS = 0.4
"""Word error rate of some answers. Whisper hears 5 to 10 % of this talker's words otherwise; where
speech says another sum than its text, 60 % and more are wrong."""


def typed(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said_aloud(text: str) -> dict[str, Any]:
    """Return a turn that a synthetic voice says."""
    return {"role": "user", "content": [spoken(text, "").part]}


def ask(client: openai.AsyncOpenAI, stack: Stack, voice: str, *messages: dict[str, Any]) -> Asked:
    """Ask for a spoken answer, streamed. The text is greedy, and the speech has a seed."""
    speech = {"modalities": ["text", "audio"], "audio": {"voice": voice, "format": "pcm16"}, "talker": {"seed": SEED}}
    return Asked(client, stack, MAX_TOKENS, messages=list(messages), ignore_eos=False, **speech)


async def check_heard(answers: Sequence[Heard]) -> None:
    """Assert that speech equals text: few words are heard otherwise, and each speech is nearest to its own text."""
    texts = [answer.text for answer in answers]
    heard = [await asyncio.to_thread(words_in, answer.pcm) for answer in answers]
    pairs = list(zip(texts, heard, strict=True))
    for answer in answers:
        assert answer.finish_reason == "stop"
    for text, words in pairs:
        assert text == min(texts, key=lambda other: word_error_rate([other], [words])), pairs
    assert word_error_rate(texts, heard) <= MOST_ERRORS, pairs
