"""Texts of what users say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from services.common.errors import BadInput
from services.gateway.realtime.conversation import wav_of
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.realtime.asides import TRANSCRIBED, TRANSCRIPT, Asides, kind_of
from tests.gateway.realtime.talking import PCM, Client, talking
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

EVENT = "conversation.item.input_audio_transcription."


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url, Asides(frames=4), workers=1, slots=8) as running:
        yield running
        await wait_until(running.clean)


@pytest_asyncio.fixture
async def client(stages: Stages) -> AsyncIterator[Client]:
    async with talking(stages) as made:
        await transcribe(made, {"model": "gpt-4o-mini-transcribe", "language": "en"})
        yield made


async def transcribe(client: Client, options: dict[str, Any] | None) -> Any:
    audio = {"input": {"transcription": options}}
    updated = await client.ask("session.update", "session.updated", session={"type": "realtime", "audio": audio})
    return updated.session.audio.input.transcription


async def test_the_audio_of_an_item_is_transcribed_beside_the_conversation(stages: Stages, client: Client) -> None:
    shown = client.events[-1].session.audio.input.transcription
    assert (shown.model, shown.language) == (INSTRUCT.name, "en")
    item = await client.say()
    done = await client.until(EVENT + "completed")
    assert (done.item_id, done.content_index, done.transcript) == (item.id, 0, "".join(TRANSCRIPT))
    deltas = [event.delta for event in client.events if event.type == EVENT + "delta"]
    assert deltas == list(TRANSCRIPT)
    usage = done.usage
    assert (usage.type, usage.output_tokens, usage.input_token_details.text_tokens) == ("tokens", 3, 3)
    assert usage.input_token_details.audio_tokens > 0
    (start,) = stages.calls("preprocess")
    assert [part.WhichOneof("content") for part in start.messages[0].parts] == ["audio", "text"]
    assert stages.preprocess[0].media == [[wav_of(PCM)]]
    shown = (await client.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=item.id)).item
    assert shown.content[0].transcript == "".join(TRANSCRIPT)
    # The model reads the audio, not the text.
    await client.ask("response.create", "response.done")
    (message,) = stages.calls("preprocess")[-1].messages
    assert [part.WhichOneof("content") for part in message.parts] == ["audio"]


async def test_a_failure_is_told_and_the_next_item_is_transcribed(stages: Stages, client: Client) -> None:
    stages.next_calls("preprocess", Act("raise", error=BadInput("Not this.")))
    item = await client.say()
    failed = await client.until(EVENT + "failed")
    assert (failed.item_id, failed.error.message) == (item.id, "Not this.")
    item = await client.say()
    assert (await client.until(EVENT + "completed")).item_id == item.id


async def test_items_wait_for_each_other_and_not_too_many(stages: Stages, client: Client) -> None:
    stages.next_calls("thinker", Act("hang"))
    items = [await client.say() for _ in range(9)]
    failed = await client.until(EVENT + "failed")
    assert (failed.item_id, failed.error.code) == (items[-1].id, "too_many_transcriptions")
    assert sum(kind_of(start) == TRANSCRIBED for start in stages.calls("preprocess")) == 1


async def test_it_may_be_turned_off(stages: Stages, client: Client) -> None:
    assert await transcribe(client, None) is None
    await client.say()
    await client.settled()
    assert not stages.calls("preprocess")
    audio = {"input": {"transcription": {"language": "xx"}}}
    error = await client.error("session.update", session={"type": "realtime", "audio": audio})
    assert error.param == "session.audio.input.transcription.language"
