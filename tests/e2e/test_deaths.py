"""A worker is killed: its requests fail with a clear error, others go on, and it starts again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.e2e.idle import Idle
from tests.fixtures.processes import descendants
from tests.fixtures.stack import START_TIMEOUT_S, Stack
from tests.fixtures.wait import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")
SPEECH: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "pcm16"}}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stack.url + "/v1", api_key=stack.api_key, max_retries=0, timeout=120
    ) as made:
        yield made


async def begin(client: openai.AsyncOpenAI, stack: Stack, max_tokens: int, **options: Any) -> AsyncIterator[Any]:
    """Return the chunks of a long answer."""
    return await client.chat.completions.create(
        model=stack.model,
        messages=[{"role": "user", "content": "Go on."}],
        stream=True,
        temperature=0,
        max_tokens=max_tokens,
        extra_body={"ignore_eos": True, "return_token_ids": True},
        **options,
    )


async def hear_one_piece(stream: AsyncIterator[Any]) -> None:
    async for chunk in stream:
        if (chunk.choices[0].delta.model_dump().get("audio") or {}).get("data"):
            return


async def lost_in(stream: AsyncIterator[Any]) -> str | None:
    """Return the code of the error that must end a stream."""
    with pytest.raises(openai.APIError) as caught:
        async for _ in stream:
            pass
    return caught.value.code


async def answers(client: openai.AsyncOpenAI, stack: Stack, **options: Any) -> bool:
    try:
        async for _ in await begin(client, stack, 4, **options):
            pass
    except (openai.APIStatusError, openai.APIError):
        return False
    return True


def engine_of(thinker: int) -> int:
    """Return the process of vLLM's engine core, a child of the thinker's."""
    return next(pid for pid in descendants(thinker) if Path(f"/proc/{pid}/comm").read_text().startswith("VLLM"))


async def test_a_talker_that_dies_fails_the_speech_that_it_held_and_nothing_else(
    stack: Stack, client: openai.AsyncOpenAI
) -> None:
    async def text_tokens() -> int:
        return sum(
            [len(c.choices[0].model_dump().get("token_ids") or []) async for c in await begin(client, stack, 600)]
        )

    before = stack.pids["talker"]
    spoken = await begin(client, stack, 2000, **SPEECH)
    await hear_one_piece(spoken)
    written = asyncio.create_task(text_tokens())
    os.kill(before, signal.SIGKILL)
    assert await lost_in(spoken) == "worker_lost"
    assert await written == 600
    await wait_until(lambda: stack.pids.get("talker") not in {before, None}, within_s=START_TIMEOUT_S)
    await wait_until(lambda: answers(client, stack, **SPEECH), within_s=START_TIMEOUT_S)
    await wait_until(Idle(stack))


async def test_an_engine_that_dies_ends_its_thinker_which_is_started_again(
    stack: Stack, client: openai.AsyncOpenAI
) -> None:
    before, others = stack.pids["thinker"], {n: p for n, p in stack.pids.items() if n != "thinker"}
    stream = await begin(client, stack, 4000)
    await anext(aiter(stream))
    os.kill(engine_of(before), signal.SIGKILL)
    assert await lost_in(stream) == "worker_lost"
    await wait_until(lambda: stack.pids.get("thinker") not in {before, None}, within_s=START_TIMEOUT_S)
    await wait_until(lambda: answers(client, stack, **SPEECH), within_s=START_TIMEOUT_S)
    assert {n: p for n, p in stack.pids.items() if n != "thinker"} == others
    await wait_until(Idle(stack))
