"""A process is killed in mid-answer: its client sees a pause, and then the answer that it would have had."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.e2e.asking import SEEDED, SPEECH, Asked, check_same, client_of, undisturbed
from tests.e2e.idle import Idle
from tests.e2e.workers import all_ready, engine_of, in_queues
from tests.fixtures.stack import Stack
from tests.fixtures.wait import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(stack) as made:
        yield made


async def started_again(stack: Stack, service: str, before: int) -> None:
    await wait_until(lambda: stack.pids.get(service) not in {before, None})
    await wait_until(Idle(stack))


async def none_lives(stack: Stack) -> bool:
    return await in_queues(stack, "live_workers", "thinker") == 0


async def test_a_hung_engine_is_found_and_gone_on_from(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """The engine's process is stopped: it lives and answers nothing."""
    variants: list[dict[str, Any]] = [{}, SEEDED]
    expected = await undisturbed([Asked(client, stack, 600, **options) for options in variants])
    before = stack.pids["thinker"]
    under_way = [Asked(client, stack, 600, **options) for options in variants]
    await wait_until(lambda: all(asked.heard.token_ids for asked in under_way))
    os.kill(engine_of(before), signal.SIGSTOP)
    await check_same(under_way, expected)
    await started_again(stack, "thinker", before)


async def test_what_a_dead_gateways_answers_held_is_free_at_once(stack: Stack, client: openai.AsyncOpenAI) -> None:
    before, addresses = stack.pids["gateway"], (stack.url, stack.grpc_address)
    asked = Asked(client, stack, 400, **SPEECH)
    await wait_until(lambda: asked.heard.pcm)
    os.kill(before, signal.SIGKILL)
    with pytest.raises(openai.APIConnectionError):  # its stream breaks
        await asked.whole()
    await wait_until(lambda: stack.pids.get("gateway") not in {before, None})
    await all_ready(stack)
    assert (stack.url, stack.grpc_address) == addresses


async def test_all_workers_killed_together_are_gone_on_from(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """The thinker by its engine, with text and speech under way, greedy and seeded; the gateway stays."""
    variants: list[dict[str, Any]] = [{}, SEEDED, SPEECH, SPEECH | SEEDED]
    expected = await undisturbed([Asked(client, stack, 400, **options) for options in variants])
    before = dict(stack.pids)
    under_way = [Asked(client, stack, 400, **options) for options in variants]
    await wait_until(lambda: all(asked.heard.token_ids for asked in under_way))
    await wait_until(lambda: all(asked.heard.pcm for asked in under_way[2:]))
    for pid in (engine_of(before["thinker"]), before["talker"], before["preprocess"]):
        os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: none_lives(stack))
    # One that comes while there is no worker waits for the next one, too.
    under_way, expected = [*under_way, Asked(client, stack, 400)], [*expected, expected[0]]
    await check_same(under_way, expected)
    for name in ("thinker", "talker", "preprocess"):
        await started_again(stack, name, before[name])
    assert (stack.pids["gateway"], stack.pids["valkey"]) == (before["gateway"], before["valkey"])
