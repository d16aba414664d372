"""Asks one question with the official OpenAI client, streamed, and measures when text and audio arrive."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI

SAMPLE_RATE = 24_000
SAMPLE_BYTES = 2


@dataclass
class DemoAnswer:
    """Times are seconds since the request was sent; None where nothing arrived."""

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


def content(image_png: bytes | None, speech_wav: bytes, question: str) -> list[dict[str, Any]]:
    """Return the user's message. The question follows the media, as in the model's documents; "" = no question."""
    parts: list[dict[str, Any]] = []
    if image_png is not None:
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_base64(image_png)}"}})
    parts.append({"type": "input_audio", "input_audio": {"data": _base64(speech_wav), "format": "wav"}})
    if question:
        parts.append({"type": "text", "text": question})
    return parts


async def ask(
    client: AsyncOpenAI,
    model: str,
    parts: Iterable[dict[str, Any]],
    *,
    speaks: bool,
    max_tokens: int,
    on_text: Callable[[str], None],
) -> DemoAnswer:
    """Stream the answer. `on_text` is called with each chunk of text as it arrives."""
    speech: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"format": "pcm16"}}
    answer = DemoAnswer()
    began_s = time.monotonic()
    messages: Any = [{"role": "user", "content": list(parts)}]
    stream = await client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=max_tokens,
        stream=True,
        stream_options={"include_usage": True},
        **(speech if speaks else {}),
    )
    async for chunk in stream:
        now_s = time.monotonic() - began_s
        answer.usage = chunk.usage or answer.usage
        if not chunk.choices:
            continue
        delta = chunk.choices[0].delta.model_dump()
        audio = delta.get("audio") or {}
        if text := delta.get("reasoning_content") or delta.get("content") or audio.get("transcript"):
            answer.first_text_s = answer.first_text_s or now_s
            answer.text += text
            on_text(text)
        if data := audio.get("data"):
            answer.first_audio_s = answer.first_audio_s or now_s
            answer.pcm += base64.b64decode(data)
    answer.total_s = time.monotonic() - began_s
    return answer


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
