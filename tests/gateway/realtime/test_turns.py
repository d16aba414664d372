"""Conversations with manual turns, held by OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from services.gateway.realtime.conversation import wav_of
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.realtime.talking import FRAME_MS, PCM, Client, LongStory, talking
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

PNG = b"\x89PNG and so on"
LEAD_S = 0.2


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    story = LongStory(frames=12)
    async with scripted_stages(store.url, story, workers=1, slots=8, realtime_lead_s=LEAD_S) as running:
        yield running
        await wait_until(running.clean)


@pytest_asyncio.fixture
async def client(stages: Stages) -> AsyncIterator[Client]:
    async with talking(stages) as made:
        yield made


def prompts(stages: Stages) -> list[list[tuple[str, str]]]:
    """Return what each prepared prompt held: (role, text or kind) of each part."""
    return [
        [
            (message.role, part.text or str(part.WhichOneof("content")))
            for message in call.messages
            for part in message.parts
        ]
        for call in stages.calls("preprocess")
    ]


async def test_a_spoken_turn_has_the_events_of_the_api_in_order(stages: Stages, client: Client) -> None:
    said = await client.say()
    assert client.types[-3:] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    assert (said.role, said.content[0].type, said.content[0].transcript) == ("user", "input_audio", None)
    heard = len(client.events)
    done = (await client.ask("response.create", "response.done")).response
    events = client.events[heard:]
    deltas = ("response.output_audio.delta", "response.output_audio_transcript.delta")
    assert [event.type for event in events if event.type not in deltas] == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert client.audio() == stages.story.pcm
    assert client.transcript() == stages.story.text == done.output[0].content[0].transcript
    assert (done.status, done.output[0].status, done.status_details) == ("completed", "completed", None)
    usage = done.usage
    assert (usage.input_token_details.audio_tokens, usage.input_token_details.text_tokens) == (3, 3)
    assert usage.output_token_details.text_tokens == len(stages.story.token_ids)
    assert usage.output_token_details.audio_tokens == stages.story.frames
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    (item_id,) = {event.item_id for event in events if event.type in deltas}
    assert item_id == done.output[0].id
    added = next(event for event in events if event.type == "conversation.item.added")
    assert added.previous_item_id == said.id
    assert stages.preprocess[0].media == [[wav_of(PCM)]]


async def test_the_model_reads_the_whole_conversation(stages: Stages, client: Client) -> None:
    await client.ask("session.update", "session.updated", session={"type": "realtime", "instructions": "Be kind."})
    await client.say()
    await client.ask("response.create", "response.done")
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}
    item: dict[str, Any] = {
        "type": "message",
        "role": "user",
        "content": [picture, {"type": "input_text", "text": "?"}],
    }
    await client.ask("conversation.item.create", "conversation.item.done", item=item)
    await client.ask("response.create", "response.done")
    assert prompts(stages)[-1] == [
        ("system", "Be kind."),
        ("user", "audio"),
        ("assistant", stages.story.text),
        ("user", "image"),
        ("user", "?"),
    ]
    assert stages.preprocess[0].media[-1] == [wav_of(PCM), PNG]


async def test_text_alone(stages: Stages, client: Client) -> None:
    await client.write("hello")
    options = {"output_modalities": ["text"], "max_output_tokens": 50}
    done = (await client.ask("response.create", "response.done", response=options)).response
    assert (done.output_modalities, done.max_output_tokens) == (["text"], 50)
    assert done.output[0].content[0].type == "output_text"
    texts = [event.delta for event in client.events if event.type == "response.output_text.delta"]
    assert "".join(texts) == stages.story.text == done.output[0].content[0].text
    assert "response.output_audio.delta" not in client.types
    assert not stages.calls("talker")


async def test_a_response_out_of_band_leaves_the_conversation_alone(stages: Stages, client: Client) -> None:
    first = await client.write("first")
    await client.write("second")
    stages.next_calls("talker", Act("hang"))
    await client.ask("response.create", "response.created")
    options: dict[str, Any] = {
        "conversation": "none",
        "output_modalities": ["text"],
        "metadata": {"topic": "aside"},
        "input": [{"type": "item_reference", "id": first.id}],
    }
    done = (await client.ask("response.create", "response.done", response=options)).response
    assert (done.status, done.conversation_id, done.metadata) == ("completed", None, {"topic": "aside"})
    error = await client.error("conversation.item.retrieve", item_id=done.output[0].id)
    assert error.code == "item_retrieve_invalid_item_id"
    assert [("user", "first")] in prompts(stages)
    cancelled = (await client.ask("response.cancel", "response.done")).response
    assert cancelled.status == "cancelled"


async def test_an_answer_to_other_items_is_at_the_end_of_the_conversation(stages: Stages, client: Client) -> None:
    first, *_, last = [await client.write(text) for text in ("first", "second", "third")]
    aside = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "aside"}]}
    before = last.id
    for given in ({"type": "item_reference", "id": first.id}, aside):
        options: dict[str, Any] = {"output_modalities": ["text"], "input": [given]}
        await client.ask("response.create", "conversation.item.added", response=options)
        assert client.events[-1].previous_item_id == before
        before = (await client.until("response.done")).response.output[0].id
    assert prompts(stages)[-2:] == [[("user", "first")], [("user", "aside")]]
    await client.ask("response.create", "response.done", response={"output_modalities": ["text"]})
    told = ("assistant", stages.story.text)
    assert prompts(stages)[-1] == [*[("user", text) for text in ("first", "second", "third")], told, told]


async def test_a_barge_in_leaves_in_the_history_what_was_heard(stages: Stages, client: Client) -> None:
    await client.say()
    stages.next_calls("talker", Act("hang", 6))
    await client.send("response.create")
    for _ in range(6):
        await client.until("response.output_audio.delta")
    item_id = client.events[-1].item_id
    done = (await client.ask("response.cancel", "response.done")).response
    assert (done.status, done.status_details.reason) == ("cancelled", "client_cancelled")
    assert done.output[0].status == "incomplete"
    assert done.usage.output_token_details.audio_tokens == 6
    assert client.types[-6:] == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    await wait_until(stages.clean)  # a cancel frees the workers
    heard_ms = 4 * FRAME_MS - 50
    truncated = await client.ask(
        "conversation.item.truncate",
        "conversation.item.truncated",
        item_id=item_id,
        content_index=0,
        audio_end_ms=heard_ms,
    )
    assert (truncated.item_id, truncated.audio_end_ms) == (item_id, heard_ms)
    await client.say()
    assert (await client.ask("response.create", "response.done")).response.status == "completed"
    # The talker had read four words at the fourth frame, and a word takes 280 ms.
    assert prompts(stages)[-1] == [("user", "audio"), ("assistant", "w0 w1 "), ("user", "audio")]
    again = await client.error(
        "conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=heard_ms + 1
    )
    assert again.param == "audio_end_ms"


async def test_audio_is_never_further_ahead_than_the_lead(stages: Stages, client: Client) -> None:
    await client.say()
    began_s, samples = time.monotonic(), 0
    await client.send("response.create")
    while (event := await client.next()).type != "response.done":
        if event.type == "response.output_audio.delta":
            assert time.monotonic() - began_s >= samples / 24_000 - LEAD_S
            samples += len(base64.b64decode(event.delta)) // 2
    assert samples == 24 * FRAME_MS * stages.story.frames


async def test_items_are_inserted_retrieved_and_deleted(stages: Stages, client: Client) -> None:
    last = await client.write("last")
    first = await client.write("first", previous_item_id="root")
    middle = await client.write("middle", previous_item_id=first.id)
    assert client.events[-1].previous_item_id == first.id
    said = await client.say()
    shown = (await client.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=said.id)).item
    assert base64.b64decode(shown.content[0].audio) == PCM
    assert (
        await client.ask("conversation.item.delete", "conversation.item.deleted", item_id=said.id)
    ).item_id == said.id
    await client.ask("response.create", "response.done", response={"output_modalities": ["text"]})
    assert prompts(stages) == [[("user", "first"), ("user", "middle"), ("user", "last")]]
    assert len({last.id, first.id, middle.id}) == 3


async def test_cleared_audio_is_gone(client: Client) -> None:
    await client.send("input_audio_buffer.append", audio=base64.b64encode(PCM).decode())
    await client.ask("input_audio_buffer.clear", "input_audio_buffer.cleared")
    assert (await client.error("input_audio_buffer.commit")).code == "input_audio_buffer_commit_empty"


async def test_a_limit_makes_a_response_incomplete_and_a_refused_turn_makes_it_fail(
    stages: Stages, client: Client
) -> None:
    await client.write("hello")
    failed = (await client.ask("response.create", "response.done", response={"max_output_tokens": 5000})).response
    assert (failed.status, failed.status_details.error.code) == ("failed", "context_length_exceeded")
    assert not failed.output
    done = (await client.ask("response.create", "response.done")).response
    assert done.status == "completed"


async def test_mistakes_name_the_event_and_the_field(stages: Stages, client: Client) -> None:
    async def update(**session: Any) -> Any:
        return await client.error("session.update", session={"type": "realtime", **session})

    vad = await update(audio={"input": {"turn_detection": {"type": "other_vad"}}})
    assert (vad.param, vad.type) == ("session.audio.input.turn_detection.type", "invalid_request_error")
    assert "server_vad" in vad.message
    short = await update(audio={"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 4999}}})
    assert short.param == "session.audio.input.turn_detection.idle_timeout_ms"
    assert (await update(tools=[{"type": "function", "name": "f"}])).param == "tools"  # the model calls none
    assert (await update(audio={"output": {"voice": "nobody"}})).code == "invalid_voice"
    for wrong in ({"type": "audio/opus"}, {"type": "audio/pcm", "rate": 44_100}):
        error = await update(audio={"input": {"format": wrong}})
        assert error.param.startswith("session.audio.input.format")
    assert (await update(model="another")).param == "session.model"
    assert (await update(misspelt=1)).code == "unknown_parameter"
    output = {"type": "function_call_output", "call_id": "c", "output": "o"}
    assert (await client.error("conversation.item.create", item=output)).param == "item.call_id"
    picture = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "data:,x"}]}
    assert (await client.error("conversation.item.create", item=picture)).param == "item.content[0].image_url"
    assert (await client.error("response.create")).code == "no_input"
    error = await client.error("response.cancel")
    # By these words LiveKit's plugin knows that its cancel came too late.
    assert (error.code, error.message[:19]) == ("response_cancel_not_active", "Cancellation failed")
    assert (await client.error("input_audio_buffer.append", audio="AAAA")).param == "audio"
    assert (await client.error("nothing")).param == "type"
    stages.next_calls("talker", Act("hang"))
    await client.write("hello")
    await client.ask("response.create", "response.created")
    assert (await client.error("response.create")).code == "conversation_already_has_active_response"


async def test_a_client_that_leaves_frees_its_turn(stages: Stages) -> None:
    stages.next_calls("talker", Act("hang", 2))
    async with talking(stages) as client:
        await client.say()
        await client.ask("response.create", "response.output_audio.delta")
    await wait_until(stages.clean)
    assert stages.gateway.gateway.memory.budget.held_bytes == 0
    await asyncio.wait_for(stages.gateway.gateway.sessions.drain(), HANGS_AFTER_S)


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
async def test_a_telephone_speaks_and_hears_g711(stages: Stages, kind: str) -> None:
    async with talking(stages, turn_detection={"type": "server_vad"}) as client:
        formats = {"input": {"format": {"type": kind}, "turn_detection": None}, "output": {"format": {"type": kind}}}
        updated = await client.ask("session.update", "session.updated", session={"type": "realtime", "audio": formats})
        assert updated.session.audio.input.format.type == updated.session.audio.output.format.type == kind
        silent = b"\xff" if kind == "audio/pcmu" else b"\xd5"
        said = await client.say(silent * 1600)  # 200 ms
        await client.ask("response.create", "response.done")
        assert len(client.audio()) * 6 == pytest.approx(len(stages.story.pcm), abs=12)
        ((heard,),) = stages.preprocess[0].media
        assert len(heard) == 44 + 200 * 48
        assert np.abs(np.frombuffer(heard[44:], "<i2")).max() <= 16
        shown = (await client.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=said.id)).item
        assert len(base64.b64decode(shown.content[0].audio)) == 1600
        # A response may have another format.
        client.events.clear()
        output = {"output": {"format": {"type": "audio/pcm"}}}
        await client.ask("response.create", "response.done", response={"audio": output})
        assert client.audio() == stages.story.pcm
