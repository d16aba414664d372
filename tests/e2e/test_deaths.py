"""A process is killed in mid-answer: its client sees a pause, and then the answer that it would have had."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import pytest_asyncio

from tests.e2e.idle import Idle
from tests.fixtures.processes import descendants
from tests.fixtures.stack import START_TIMEOUT_S, Stack
from tests.fixtures.wait import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")
SPEECH: dict[str, Any] = {
    "modalities": ["text", "audio"],
    "audio": {"voice": "ethan", "format": "pcm16"},
    "talker": {"seed": 5, "max_frames": 150},
}
# A ten-thousandth of full scale, in steps of 16-bit samples.
TOLERANCE = 3
SEEDED: dict[str, Any] = {"temperature": 1.0, "seed": 11}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stack.url + "/v1", api_key=stack.api_key, max_retries=0, timeout=300
    ) as made:
        yield made


@dataclass
class Heard:
    """An answer as its client assembles it."""

    token_ids: list[int] = field(default_factory=list[int])
    text: str = ""
    codes: list[int] = field(default_factory=list[int])
    pcm: bytes = b""
    finish_reason: str | None = None

    def add(self, chunk: Any) -> None:
        (choice,) = chunk.choices
        delta, audio = choice.delta.model_dump(), choice.delta.model_dump().get("audio") or {}
        self.token_ids += choice.model_dump().get("token_ids") or []
        self.text += (delta.get("content") or "") + (audio.get("transcript") or "")
        self.codes += audio.get("codes") or []
        self.pcm += base64.b64decode(audio.get("data") or "")
        self.finish_reason = choice.finish_reason or self.finish_reason


class Asked:
    """A long answer in progress."""

    def __init__(self, client: openai.AsyncOpenAI, stack: Stack, max_tokens: int, **options: Any) -> None:
        self.heard = Heard()
        ours: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "return_token_ids": True, **options}
        self._made = client.chat.completions.create(
            model=stack.model,
            messages=[{"role": "user", "content": "Go on."}],
            stream=True,
            max_tokens=max_tokens,
            extra_body=ours,
        )
        self._task = asyncio.create_task(self._hear())

    async def _hear(self) -> None:
        async for chunk in await self._made:
            self.heard.add(chunk)

    async def whole(self) -> Heard:
        await self._task
        return self.heard


def check_same(heard: Heard, expected: Heard) -> None:
    """Assert that every token, code and character comes once, and that samples are equal up to float rounding."""
    assert (heard.token_ids, heard.codes) == (expected.token_ids, expected.codes)
    assert (heard.text, heard.finish_reason) == (expected.text, expected.finish_reason)
    samples, whole = (np.frombuffer(answer.pcm, np.int16).astype(int) for answer in (heard, expected))
    assert samples.shape == whole.shape
    assert len(whole) == 0 or np.abs(samples - whole).max() <= TOLERANCE


def engine_of(thinker: int) -> int:
    """Return the process of vLLM's engine core, a child of the thinker's."""
    return next(pid for pid in descendants(thinker) if Path(f"/proc/{pid}/comm").read_text().startswith("VLLM"))


async def started_again(stack: Stack, service: str, before: int) -> None:
    await wait_until(lambda: stack.pids.get(service) not in {before, None}, within_s=START_TIMEOUT_S)
    await wait_until(Idle(stack))


async def test_a_hung_engine_is_found_and_gone_on_from(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """The engine's process is stopped: it lives and answers nothing."""
    variants: list[dict[str, Any]] = [{}, SEEDED]
    expected = [await Asked(client, stack, 600, **options).whole() for options in variants]
    before = stack.pids["thinker"]
    under_way = [Asked(client, stack, 600, **options) for options in variants]
    await wait_until(lambda: all(asked.heard.token_ids for asked in under_way), within_s=60)
    os.kill(engine_of(before), signal.SIGSTOP)
    for asked, whole in zip(under_way, expected, strict=True):
        check_same(await asked.whole(), whole)
    await started_again(stack, "thinker", before)


async def test_all_workers_killed_together_are_gone_on_from(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """The thinker by its engine, with text and speech under way, greedy and seeded; the gateway stays."""
    variants: list[dict[str, Any]] = [{}, SEEDED, SPEECH, SPEECH | SEEDED]
    expected = [await Asked(client, stack, 400, **options).whole() for options in variants]
    before = dict(stack.pids)
    under_way = [Asked(client, stack, 400, **options) for options in variants]
    await wait_until(lambda: all(asked.heard.token_ids for asked in under_way), within_s=60)
    await wait_until(lambda: all(asked.heard.pcm for asked in under_way[2:]), within_s=60)
    for pid in (engine_of(before["thinker"]), before["talker"], before["preprocess"]):
        os.kill(pid, signal.SIGKILL)
    for asked, whole in zip(under_way, expected, strict=True):
        check_same(await asked.whole(), whole)
    for name in ("thinker", "talker", "preprocess"):
        await started_again(stack, name, before[name])
    assert (stack.pids["gateway"], stack.pids["valkey"]) == (before["gateway"], before["valkey"])
