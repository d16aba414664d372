"""A request that ends its engine: a second engine tries it, and no third. The requests beside it continue."""

from __future__ import annotations

import asyncio
import re

import openai
import pytest

from tests.e2e.idle import scrape
from tests.e2e.questions import Client
from tests.e2e.workers import all_ready, held, metric
from tests.fixtures.stack import FATAL_TEXT, Stack
from tests.fixtures.wait import wait_until


async def test_a_request_that_ends_engines_fails_and_those_beside_it_continue(pairs: Client) -> None:
    """One request is beside it in mid-text, one in the same prefill, and one comes after it."""
    stack, names = pairs.stack, ("media: beside a fatal one", "long prompt: beside a fatal one", "seeded text")
    lost = engines_lost(stack)
    beside = [pairs.ask(names[0])]
    await wait_until(lambda: beside[0].heard.token_ids)
    async with held(stack, "thinker") as thinker:
        assert not beside[0].is_over
        before = await metric(stack, thinker, "thinker_features_seconds_count")

        async def has(count: int) -> bool:
            return await metric(stack, thinker, "thinker_features_seconds_count") == before + count

        fatal = asyncio.ensure_future(
            pairs.client.chat.completions.create(
                model=stack.model,
                messages=[{"role": "user", "content": FATAL_TEXT}],
                extra_body={"prompt_cache_key": "together"},
            )
        )
        await wait_until(lambda: has(1))
        beside.append(pairs.ask(names[1]))
        await wait_until(lambda: has(2))
    with pytest.raises(openai.InternalServerError) as caught:
        await fatal
    assert caught.value.status_code == 500
    assert caught.value.code == "fatal_request"
    await pairs.check(beside, names[:2])
    await all_ready(stack)
    await pairs.check([pairs.ask(names[2])], names[2:])
    assert engines_lost(stack) == lost + 2
    assert 'antiphon_gateway_fatal_requests_total{stage="thinker"} 1.0' in await scrape(stack)


def engines_lost(stack: Stack) -> int:
    """Return how many thinkers have ended, as the stack's supervisor tells it."""
    return len(re.findall(r"^thinker-\d ended", stack.said, re.MULTILINE))
