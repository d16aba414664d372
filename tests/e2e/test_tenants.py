"""A tenant's tokens in its answers' usage and in the metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.idle import Idle, scrape
from tests.e2e.media import audio_part, text_part
from tests.fixtures.stack import ACME_KEY, Stack
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")
SPEECH: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "pcm16"}}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def acme(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stack.url + "/v1", api_key=ACME_KEY, max_retries=0, timeout=HANGS_AFTER_S
    ) as made:
        yield made


def asked() -> list[Any]:
    return [{"role": "user", "content": [text_part("What do you hear?"), audio_part()]}]


async def tokens(stack: Stack, tenant: str) -> dict[str, float]:
    """Return tokens by kind."""
    families = text_string_to_metric_families(await scrape(stack))
    return {
        sample.labels["kind"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "antiphon_gateway_tokens_total" and sample.labels["tenant"] == tenant
    }


def more(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {kind: count - before.get(kind, 0) for kind, count in after.items()}


async def test_an_answers_usage_is_counted_for_its_tenant_alone(stack: Stack, acme: openai.AsyncOpenAI) -> None:
    before, others = await tokens(stack, "acme"), await tokens(stack, "default")
    answer = await acme.chat.completions.create(
        model=stack.model, messages=asked(), max_tokens=12, extra_body={"talker": {"max_frames": 6}}, **SPEECH
    )
    usage: Any = answer.usage
    assert more(before, await tokens(stack, "acme")) == {
        "prompt": usage.prompt_tokens,
        "prompt_audio": usage.prompt_tokens_details.audio_tokens,
        "prompt_cached": usage.prompt_tokens_details.cached_tokens,
        "prompt_image": 0,
        "prompt_video": 0,
        "text": usage.completion_tokens - usage.completion_tokens_details.audio_tokens,
        "audio": usage.completion_tokens_details.audio_tokens,
    }
    assert usage.prompt_tokens_details.audio_tokens > 0
    assert usage.completion_tokens_details.audio_tokens > 0
    assert await tokens(stack, "default") == others


async def test_the_tokens_of_a_disconnected_client_are_counted(stack: Stack, acme: openai.AsyncOpenAI) -> None:
    before = await tokens(stack, "acme")
    stream: Any = await acme.chat.completions.create(
        model=stack.model, messages=asked(), stream=True, max_tokens=400, extra_body={"ignore_eos": True}, **SPEECH
    )
    async for chunk in stream:
        if chunk.choices and (chunk.choices[0].delta.model_dump().get("audio") or {}).get("data"):
            break
    await stream.close()
    await wait_until(Idle(stack))

    async def counted() -> bool:
        return (await tokens(stack, "acme"))["audio"] > before.get("audio", 0)

    await wait_until(counted)
    taken = more(before, await tokens(stack, "acme"))
    assert taken["prompt"] > taken["prompt_audio"] > 0
    assert taken["text"] > 0
