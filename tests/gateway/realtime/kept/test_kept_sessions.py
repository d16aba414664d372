"""Sessions that go on with another connection, at any gateway."""

from __future__ import annotations

import base64
import gc
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import openai
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from services.gateway.realtime.conversation import Item, SpeechContent, wav_of
from services.gateway.realtime.kept.sessions import KeptSession
from services.gateway.turn.intent import Principal
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT, RunningGateway, running_gateway
from tests.gateway.kept.conftest import keys_of
from tests.gateway.realtime.talking import PCM, Client, LongStory
from tests.gateway.responses.conftest import WEATHER, card
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages
from tests.gateway.test_auth import sha256

KEPT: dict[str, Any] = {"realtime_session_key": SecretStr("a key of the operator's, 24 chars")}
PNG = b"\x89PNG and so on"
SETTINGS: dict[str, Any] = {
    "type": "realtime",
    "instructions": "Be kind, and secretive.",
    "antiphon_preset": {"name": "voice-assistant"},
    "tools": [WEATHER],
    "temperature": 0.5,
    "audio": {"input": {"turn_detection": None}, "output": {"voice": "chelsie"}},
}


@asynccontextmanager
async def two_gateways(store: RedisServer) -> AsyncGenerator[tuple[Stages, RunningGateway]]:
    story = LongStory(frames=6)
    async with (
        scripted_stages(store.url, story, card=card(), workers=1, slots=8, **KEPT) as stages,
        running_gateway(store.url, **KEPT) as other,
    ):

        async def ready() -> bool:
            return (await other.client.get("/health/ready")).status_code == 200

        await wait_until(ready)
        yield stages, other
        await wait_until(stages.clean)


@asynccontextmanager
async def talking(gateway: RunningGateway, session_id: str | None = None) -> AsyncGenerator[Client]:
    query: dict[str, Any] = {"session_id": session_id} if session_id is not None else {}
    url = f"http://127.0.0.1:{gateway.port}/v1"
    async with (
        openai.AsyncOpenAI(base_url=url, api_key=API_KEY) as made,
        made.realtime.connect(model=INSTRUCT.name, extra_query=query) as connection,
    ):
        client = Client(connection)
        created = await client.until("session.created")
        assert session_id in (None, created.session.id)
        yield client


async def ended(client: Client) -> ConnectionClosed:
    """Change something in a session that goes on elsewhere, if it has not noticed that yet. Return how it is closed."""
    with suppress(ConnectionClosed):
        await client.send("response.cancel")
    with pytest.raises(ConnectionClosed) as closed:
        await client.until("nothing")
    return closed.value


def without_usage(session: Any) -> dict[str, Any]:
    shown = session.to_dict()
    assert shown.pop("antiphon_usage")["total_tokens"] >= 0
    return shown


async def kept(gateway: RunningGateway, session_id: str) -> KeptSession | None:
    """Return what is kept of a session; None = nothing yet."""
    sessions = gateway.gateway.sessions._kept  # pyright: ignore[reportPrivateUsage]
    assert sessions is not None
    try:
        found = await sessions.find(Principal("default", "default"), session_id)
        return replace(found, items=[item async for some in sessions.items("default", found) for item in some])
    except Exception:
        return None


async def keeps(gateway: RunningGateway, session_id: str, items: int) -> None:
    async def has_them() -> bool:
        found = await kept(gateway, session_id)
        return found is not None and len(found.items) == items

    await wait_until(has_them)


async def test_a_conversation_goes_on_at_another_gateway(store: RedisServer) -> None:
    async with two_gateways(store) as (stages, other):
        async with talking(stages.gateway) as client:
            session_id = client.events[0].session.id
            await client.ask("session.update", "session.updated", session=SETTINGS)
            nothing = {"type": "realtime", "instructions": None, "audio": {"output": {"voice": None}}}
            before = await client.ask("session.update", "session.updated", session=nothing)
            said = await client.say()
            answer = (await client.ask("response.create", "response.done")).response.output[0]
            picture = {"type": "input_image", "image_url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}
            item: dict[str, Any] = {"type": "message", "role": "user", "content": [picture]}
            await client.ask("conversation.item.create", "conversation.item.done", item=item)
            call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
            await client.ask("conversation.item.create", "conversation.item.done", item=call)
            gone = await client.write("never mind")
            await client.ask("conversation.item.delete", "conversation.item.deleted", item_id=gone.id)
            heard = {"item_id": answer.id, "content_index": 0, "audio_end_ms": 250}
            await client.ask("conversation.item.truncate", "conversation.item.truncated", **heard)
        await wait_until(lambda: not stages.gateway.gateway.sessions.count)
        async with talking(other, session_id) as client:
            created = client.events[0].session
            assert without_usage(created) == without_usage(before.session)
            shown = await client.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=said.id)
            assert base64.b64decode(shown.item.content[0].audio) == PCM
            output: dict[str, Any] = {"type": "function_call_output", "call_id": "c1", "output": "Rain."}
            await client.ask("conversation.item.create", "conversation.item.done", item=output)
            assert (await client.ask("response.create", "response.done")).response.status == "completed"
            start = stages.calls("preprocess")[-1]
            assert [message.role for message in start.messages] == [
                "system",
                "user",
                "assistant",
                "user",
                "assistant",
                "tool",
            ]
            assert start.messages[2].parts[0].text == "w0 w1 w2 "
            assert stages.preprocess[0].media[-1] == [wav_of(PCM), PNG]
            assert stages.calls("thinker")[-1].sampling.temperature == 0.5
            # And so on.
            await keeps(other, session_id, items=6)


async def test_what_is_deleted_of_a_session_that_went_on_takes_no_memory(store: RedisServer) -> None:
    async with two_gateways(store) as (stages, other):
        async with talking(stages.gateway) as client:
            session_id = client.events[0].session.id
            item = await client.write("hello")
            await keeps(other, session_id, items=1)
        async with talking(other, session_id) as again:
            await wait_until(lambda: not stages.gateway.gateway.sessions.count)
            assert is_in_memory(item.id)
            await again.ask("conversation.item.delete", "conversation.item.deleted", item_id=item.id)
            await wait_until(lambda: not is_in_memory(item.id))


def is_in_memory(item_id: str) -> bool:
    gc.collect()
    return any(type(one) is Item and one.id == item_id for one in gc.get_objects())


async def test_an_answer_that_was_cut_is_kept_as_far_as_it_was_heard(store: RedisServer) -> None:
    """The first gateway does not know yet that its client is gone."""
    async with two_gateways(store) as (stages, other), talking(stages.gateway) as lost:
        session_id = lost.events[0].session.id
        await lost.ask("session.update", "session.updated", session=SETTINGS)
        await lost.say()
        stages.next_calls("talker", Act("hang", 3))
        await lost.send("response.create")
        for _ in range(3):
            await lost.until("response.output_audio.delta")

        async def has_three_frames() -> bool:
            found = await kept(other, session_id)
            content = found.items[-1].contents[0] if found is not None and found.items else None
            return isinstance(content, SpeechContent) and content.spoken.samples == 3 * 2400

        await wait_until(has_three_frames)
        async with talking(other, session_id) as client:
            found = await kept(other, session_id)
            assert found is not None
            shown = await client.ask(
                "conversation.item.retrieve", "conversation.item.retrieved", item_id=found.item_ids[-1]
            )
            assert (shown.item.status, shown.item.content[0].transcript) == ("incomplete", "w0 w1 ")
            await client.write("Go on.")
            done = (await client.ask("response.create", "response.done")).response
            assert done.status == "completed"
            start = stages.calls("preprocess")[-1]
            assert [part.text for part in start.messages[2].parts] == ["w0 w1 "]
            # Only one of them may write.
            closed = await ended(lost)
            assert closed.rcvd is not None
            assert (closed.rcvd.code, closed.rcvd.reason) == (1001, "session_taken_over")
            await client.write("Still here.")
            await keeps(other, session_id, items=5)


async def test_what_a_session_uses_goes_on_with_it(store: RedisServer) -> None:
    # With a transcript, as each committed item has one; the last answer is lost in the middle.
    audio = {"input": {"turn_detection": None, "transcription": {}}}
    async with two_gateways(store) as (stages, other), talking(stages.gateway) as lost:
        session_id = lost.events[0].session.id
        assert lost.events[0].session.antiphon_usage["total_tokens"] == 0
        await lost.ask("session.update", "session.updated", session={"type": "realtime", "audio": audio})
        await lost.send("input_audio_buffer.append", audio=base64.b64encode(PCM).decode())
        kind = "conversation.item.input_audio_transcription.completed"
        used = [(await lost.ask("input_audio_buffer.commit", kind)).usage.total_tokens]
        done = (await lost.ask("response.create", "response.done")).response
        used.append(done.usage.total_tokens)
        shown = await lost.ask("session.update", "session.updated", session={"type": "realtime"})
        assert shown.session.antiphon_usage["total_tokens"] == sum(used)
        stages.next_calls("talker", Act("hang", 3))
        await lost.ask("response.create", "response.output_audio.delta")

        async def has_three_frames() -> bool:
            found = await kept(other, session_id)
            return found is not None and found.usage.completion_audio_tokens == 6 + 3

        await wait_until(has_three_frames)
        async with talking(other, session_id) as client:
            usage = client.events[0].session.antiphon_usage
            assert usage["output_token_details"]["audio_tokens"] == 6 + 3
            assert usage["total_tokens"] > sum(used)
            again = (await client.ask("response.create", "response.done")).response
            shown = await client.ask("session.update", "session.updated", session={"type": "realtime"})
            after = shown.session.antiphon_usage
            for name in ("total_tokens", "input_tokens", "output_tokens"):
                assert after[name] == usage[name] + getattr(again.usage, name)
        await ended(lost)


async def test_what_another_version_kept_is_read_as_far_as_it_is_known(store: RedisServer) -> None:
    async with two_gateways(store) as (stages, other), talking(stages.gateway) as client:
        session_id = client.events[0].session.id
        await client.write("hello")
        await keeps(other, session_id, items=1)
        sessions = other.gateway.sessions._kept  # pyright: ignore[reportPrivateUsage]
        assert sessions is not None
        whole = await sessions.find(Principal("default", "default"), session_id)
        described: dict[str, Any] = {"id": session_id, "model": whole.model, "settings": "", "project_id": ""}
        described |= {"expires_unix_s": whole.expires_unix_s, "item_ids": whole.item_ids, "of_tomorrow": 1}
        prompt = {"text_tokens": 2, "of_tomorrow": 1}
        of_tomorrow: dict[str, Any] = {"usage": {"prompt": prompt, "completion_text_tokens": 3, "of_tomorrow": 1}}
        for usage, used in (({}, (0, 0)), ({"usage": {"cached_tokens": 1}}, (0, 0)), (of_tomorrow, (2, 3))):
            value = json.dumps(described | usage).encode()
            await sessions._put("default", session_id, value)  # pyright: ignore[reportPrivateUsage]
            found = await kept(other, session_id)
            assert found is not None
            assert [item.id for item in found.items] == whole.item_ids
            assert (found.usage.prompt.text_tokens, found.usage.completion_text_tokens) == used


async def test_a_drain_keeps_what_a_session_is(store: RedisServer) -> None:
    async with two_gateways(store) as (stages, other), talking(stages.gateway) as client:
        session_id = client.events[0].session.id
        item = await client.write("hello")
        await stages.gateway.gateway.drain()
        with pytest.raises(ConnectionClosed):
            await client.until("nothing")
        async with talking(other, session_id) as again:
            await again.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=item.id)


async def test_what_is_kept_is_encrypted_and_ends(store: RedisServer) -> None:
    async with two_gateways(store) as (stages, _), talking(stages.gateway) as client:
        await client.ask("session.update", "session.updated", session=SETTINGS)
        await client.say()
        await keeps(stages.gateway, client.events[0].session.id, items=1)
        with store.client() as redis:
            values = [key for key in keys_of("session", store) if b":value:" in key]
            assert len(values) >= 3
            for key in values:
                assert redis.pttl(key) > 0
                value = redis.get(key)
                assert isinstance(value, bytes)
                assert b"secretive" not in value
                assert PCM[1000:1100] not in value


async def refusal(gateway: RunningGateway, query: str, key: str = API_KEY) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(
            f"ws://127.0.0.1:{gateway.port}/v1/realtime?{query}", additional_headers={"authorization": f"Bearer {key}"}
        ):
            pass
    body = caught.value.response.body
    assert body is not None
    return caught.value.response.status_code, json.loads(body)["error"]["code"]


async def test_nobody_else_finds_a_session(store: RedisServer) -> None:
    tenants: dict[str, Any] = {"tenant_keys": {"others": [sha256("their key")]}}
    wrong: dict[str, Any] = {"realtime_session_key": SecretStr("another key of the operator's")}
    async with (
        scripted_stages(store.url, LongStory(), workers=1, slots=8, **KEPT, **tenants) as stages,
        running_gateway(store.url, **wrong) as rekeyed,
        running_gateway(store.url) as keyless,
        talking(stages.gateway) as client,
    ):
        session_id = client.events[0].session.id
        item = await client.write("hello")
        await keeps(stages.gateway, session_id, items=1)
        query = f"session_id={session_id}"
        assert await refusal(stages.gateway, query, "their key") == (404, "session_not_found")
        assert await refusal(stages.gateway, "session_id=sess_none") == (404, "session_not_found")
        for part in ("owner", f"item/{item.id}"):  # values of the session that are no sessions
            assert await refusal(stages.gateway, f"{query}/{part}") == (404, "session_not_found")
        assert await refusal(stages.gateway, f"{query}&model=other") == (404, "model_not_found")
        assert await refusal(rekeyed, query) == (404, "session_not_found")
        assert await refusal(keyless, query) == (400, "sessions_not_kept")
