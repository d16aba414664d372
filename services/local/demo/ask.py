"""Asks one question with the official OpenAI client, streamed, and measures when text and audio arrive."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI

SAMPLE_RATE = 24_000
SAMPLE_BYTES = 2
MAX_TOKENS = 60


@dataclass
class DemoAnswer:
    """Times are seconds since the request was sent; None where nothing arrived."""

    thoughts: str = ""
    text: str = ""
    pcm: bytearray = field(default_factory=bytearray)
    """24 kHz, 16 bit, mono, as received."""
    first_text_s: float | None = None
    first_audio_s: float | None = None
    total_s: float = 0.0
    usage: Any = None

    @property
    def audio_s(self) -> float:
        return len(self.pcm) / SAMPLE_BYTES / SAMPLE_RATE

    @property
    def message(self) -> dict[str, Any]:
        return {"role": "assistant", "content": self.text}


async def ask(
    client: AsyncOpenAI,
    model: str,
    messages: Sequence[dict[str, Any]],
    *,
    speaks: bool,
    uses_films_sound: bool,
    on_text: Callable[[str], None],
) -> DemoAnswer:
    """Stream the answer. `on_text` is called with each chunk of text as it arrives, thoughts among them."""
    speech: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"format": "pcm16"}}
    answer = DemoAnswer()
    began_s = time.monotonic()
    given: Any = list(messages)
    stream = await client.chat.completions.create(
        model=model,
        messages=given,
        max_tokens=MAX_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"use_audio_in_video": True} if uses_films_sound else None,
        **(speech if speaks else {}),
    )
    async for chunk in stream:
        now_s = time.monotonic() - began_s
        answer.usage = chunk.usage or answer.usage
        if not chunk.choices:
            continue
        delta = chunk.choices[0].delta.model_dump()
        audio = delta.get("audio") or {}
        thought = delta.get("reasoning_content") or ""
        text = delta.get("content") or audio.get("transcript") or ""
        if thought or text:
            answer.first_text_s = answer.first_text_s or now_s
            answer.thoughts += thought
            answer.text += text
            on_text(thought or text)
        if data := audio.get("data"):
            answer.first_audio_s = answer.first_audio_s or now_s
            answer.pcm += base64.b64decode(data)
    answer.total_s = time.monotonic() - began_s
    return answer
