"""Long answers of a stack, read as they come, to compare a disturbed one with an undisturbed one."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openai

from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

# A ten-thousandth of full scale, in steps of 16-bit samples.
TOLERANCE = 3
SEEDED: dict[str, Any] = {"temperature": 1.0, "seed": 11}
SPEECH: dict[str, Any] = {
    "modalities": ["text", "audio"],
    "audio": {"voice": "ethan", "format": "pcm16"},
    "talker": {"seed": 5, "max_frames": 150},
}


@dataclass
class Heard:
    """An answer as its client assembles it."""

    token_ids: list[int] = field(default_factory=list[int])
    text: str = ""
    codes: list[int] = field(default_factory=list[int])
    pcm: bytes = b""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict[str, Any])
    """Tokens of the prompt and of the answer, and of what the answer's are. Not those found in a cache."""

    def add(self, chunk: Any) -> None:
        for choice in chunk.choices:
            delta, audio = choice.delta.model_dump(), choice.delta.model_dump().get("audio") or {}
            self.token_ids += choice.model_dump().get("token_ids") or []
            self.text += (delta.get("content") or "") + (audio.get("transcript") or "")
            self.codes += audio.get("codes") or []
            self.pcm += base64.b64decode(audio.get("data") or "")
            self.reasoning += delta.get("reasoning_content") or ""
            self.finish_reason = choice.finish_reason or self.finish_reason
        if chunk.usage is not None:
            self.usage = chunk.usage.model_dump(
                include={"prompt_tokens", "completion_tokens", "completion_tokens_details"}
            )


class Asked:
    """A long answer in progress."""

    def __init__(self, client: openai.AsyncOpenAI, stack: Stack, max_tokens: int, **options: Any) -> None:
        self.heard = Heard()
        messages = options.pop("messages", [{"role": "user", "content": "Go on."}])
        ours: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "return_token_ids": True, **options}
        self._made = client.chat.completions.create(
            model=stack.model,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=max_tokens,
            extra_body=ours,
        )
        self._task = asyncio.create_task(self._hear())

    async def _hear(self) -> None:
        async for chunk in await self._made:
            self.heard.add(chunk)
            await asyncio.sleep(0)  # chunks that came together come without a pause: whoever waits for some looks first

    @property
    def is_over(self) -> bool:
        return self._task.done()

    async def whole(self) -> Heard:
        await self._task
        return self.heard


async def undisturbed(asked: Sequence[Asked]) -> list[Heard]:
    """Return the answers to questions that were asked at the same time, which takes less time than one by one."""
    return [await one.whole() for one in asked]


async def all_have(asked: Sequence[Asked], tokens: int) -> None:
    """Wait until each answer has `tokens` tokens or more and none is over. Raise what ended one before."""

    def they_have() -> bool:
        return any(one.is_over for one in asked) or all(len(one.heard.token_ids) >= tokens for one in asked)

    await wait_until(they_have)
    for one in asked:
        assert not one.is_over, f"over after {len((await one.whole()).token_ids)} tokens"


@asynccontextmanager
async def client_of(stack: Stack) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stack.url + "/v1", api_key=stack.api_key, max_retries=0, timeout=HANGS_AFTER_S
    ) as client:
        yield client


async def check_same(asked: Sequence[Asked], expected: Sequence[Heard]) -> None:
    """Wait for the answers. Assert that every token, code and character comes once, and that samples are equal up to
    float rounding."""
    for one, whole in zip(asked, expected, strict=True):
        heard = await one.whole()
        assert (heard.token_ids, heard.codes) == (whole.token_ids, whole.codes)
        assert (heard.text, heard.reasoning, heard.finish_reason) == (whole.text, whole.reasoning, whole.finish_reason)
        assert heard.usage == whole.usage
        samples, others = (np.frombuffer(answer.pcm, np.int16).astype(int) for answer in (heard, whole))
        assert samples.shape == others.shape
        assert len(others) == 0 or np.abs(samples - others).max() <= TOLERANCE
