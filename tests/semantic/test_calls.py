"""Voice calls in which the user cuts an answer: the conversation keeps what was heard of it, and goes on right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.gateway.realtime.conversation import SAMPLE_RATE
from services.local.demo.media import drawn_picture, spoken
from services.local.hearing import plain
from tests.e2e.asking import Heard, client_of
from tests.e2e.workers import all_ready, stopped
from tests.fixtures.stack import Stack
from tests.gateway.realtime.sounds import silence
from tests.gateway.realtime.talking import Client
from tests.semantic.ear import words_in
from tests.semantic.talking import MAX_TOKENS, SEED, check_heard
from training.hearing import word_error_rate

pytestmark = pytest.mark.asyncio(loop_scope="module")
BYTES_A_MS = 2 * SAMPLE_RATE // 1000
AUDIO_DELTA = "response.output_audio.delta"
HEARD_MS = 1000
"""Of the answer that the user speaks over."""
WAV_HEADER_BYTES = 44


@asynccontextmanager
async def calling(stack: Stack, voice: str) -> AsyncGenerator[Client]:
    """Open a call with greedy texts and seeded speech. The user's voice begins and ends turns, and interrupts."""
    async with client_of(stack) as made, made.realtime.connect(model=stack.model) as connection:
        client = Client(connection)
        await client.until("session.created")
        session: dict[str, Any] = {
            "type": "realtime",
            "audio": {"output": {"voice": voice}},
            "max_output_tokens": MAX_TOKENS,
            "temperature": 0,
            "talker": {"seed": SEED},
        }
        await client.ask("session.update", "session.updated", session=session)
        yield client


async def ask(client: Client, text: str) -> Heard:
    """Type a turn, and return its spoken answer."""
    before = len(client.events)
    await client.write(text)
    await client.send("response.create")
    return await answer(client, before)


async def answer(client: Client, before: int) -> Heard:
    """Return the answer that ends first after so many events."""
    while not (ends := [event for event in client.events[before:] if event.type == "response.done"]):
        await client.next()
    response = ends[0].response
    assert response.status == "completed"
    text = response.output[0].content[0].transcript
    return Heard(text=text, pcm=Client(None, client.events[before:]).audio(), finish_reason="stop")


def item_of(events: Sequence[Any]) -> str:
    return next(event.item_id for event in events if event.type == AUDIO_DELTA)


async def truncated(client: Client, item_id: str, audio_end_ms: int) -> str:
    """Say how much of an answer was heard, and return the text that is kept of it."""
    place = {"item_id": item_id, "content_index": 0}
    await client.ask("conversation.item.truncate", "conversation.item.truncated", **place, audio_end_ms=audio_end_ms)
    kept = await client.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=item_id)
    return kept.item.content[0].transcript


@pytest.mark.parametrize("share", [0.35, 0.65])
async def test_a_truncated_answer_keeps_the_words_that_were_heard(small_world: Stack, share: float) -> None:
    async with calling(small_world, "chelsie") as client:
        whole = await ask(client, "seven times six?")
        end_ms = int(share * len(whole.pcm)) // BYTES_A_MS
        kept = await truncated(client, item_of(client.events), end_ms)
        heard = await asyncio.to_thread(words_in, whole.pcm[: end_ms * BYTES_A_MS])
        assert whole.text.startswith(kept)
        assert kept != whole.text
        assert abs(len(kept.split()) - len(heard.split())) <= 1, (kept, heard)
        following = await ask(client, "what did i say before?")
    assert plain(following.text).startswith("you said seven times six")
    await check_heard([whole])


async def test_who_speaks_over_an_answer_is_heard_and_answered(small_world: Stack) -> None:
    """The talker stands still meanwhile, so that its answer is not over."""
    await all_ready(small_world)
    said = silence(400) + spoken("two plus three", "").data[WAV_HEADER_BYTES:] + silence(1000)
    async with calling(small_world, "aiden") as client:
        url = drawn_picture().part["image_url"]["url"]
        seen = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": "what do you see?"}]
        item = {"type": "message", "role": "user", "content": seen}
        await client.ask("conversation.item.create", "conversation.item.done", item=item)
        await client.send("response.create")
        while len(client.audio()) < HEARD_MS * BYTES_A_MS:
            await client.until(AUDIO_DELTA)
        with stopped(small_world.pids["talker"]):
            await client.append(said)
            cut = (await client.until("response.done")).response
        assert (cut.status, cut.status_details.reason) == ("cancelled", "turn_detected")
        before, pcm = len(client.events), client.audio()[: HEARD_MS * BYTES_A_MS]
        kept, heard = plain(await truncated(client, cut.output[0].id, HEARD_MS)), await asyncio.to_thread(words_in, pcm)
        assert abs(len(kept.split()) - len(heard.split())) <= 1, (kept, heard)
        assert word_error_rate([kept], [heard]) < 0.5, (kept, heard)
        following = await answer(client, before)
        last = await ask(client, "what did i say before?")
    assert plain(following.text).startswith("two plus three is")
    assert plain(last.text).startswith("you said two plus three")
    await check_heard([following])
