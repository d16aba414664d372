"""Audio that a session left in no item goes on with it at another gateway, after a drain."""

from __future__ import annotations

import base64

import pytest
from websockets.exceptions import ConnectionClosed

from services.common.errors import Capacity
from services.gateway.realtime import input_buffer
from services.gateway.realtime.events import Event
from services.gateway.realtime.openai.endpoint import Realtime
from services.gateway.realtime.turns.options import TurnDetection
from services.gateway.turn.intent import Principal
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import RunningGateway
from tests.gateway.realtime.kept.test_kept_sessions import keeps, talking, two_gateways
from tests.gateway.realtime.talking import PCM, Client

MANUAL = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}


async def drained(gateway: RunningGateway, client: Client) -> None:
    await gateway.gateway.drain()
    with pytest.raises(ConnectionClosed):
        await client.until("nothing")


async def test_a_drain_keeps_what_was_not_committed(store: RedisServer) -> None:
    """A button is held while the gateway drains: what is said before and after is one turn."""
    async with two_gateways(store) as (stages, other), talking(stages.gateway) as client:
        session_id = client.events[0].session.id
        await client.ask("session.update", "session.updated", session=MANUAL)
        await client.append(PCM[:4800])
        await client.settled()
        await drained(stages.gateway, client)
        async with talking(other, session_id) as again:
            assert again.events[0].session.antiphon_uncommitted_ms == 100
            item = await again.say(PCM[4800:])
            shown = await again.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=item.id)
            assert base64.b64decode(shown.item.content[0].audio) == PCM
            await keeps(other, session_id, items=1)
        await wait_until(lambda: not other.gateway.sessions.count)
        async with talking(other, session_id) as last:  # it is there once
            assert not hasattr(last.events[0].session, "antiphon_uncommitted_ms")
            assert (await last.error("input_audio_buffer.commit")).code == "input_audio_buffer_commit_empty"


async def test_what_was_not_committed_stays_where_a_gateway_has_no_room(store: RedisServer) -> None:
    async with two_gateways(store) as (stages, other), talking(stages.gateway) as client:
        session_id = client.events[0].session.id
        await client.ask("session.update", "session.updated", session=MANUAL)
        await client.write("a" * 40_000)
        await client.append(4 * PCM)  # together they are more than is not counted
        await client.settled()
        await drained(stages.gateway, client)
        sessions, memory, user = other.gateway.sessions, other.gateway.memory, Principal("default", "default")
        memory.wait_s = 0.05
        found = await sessions.find(user, session_id)
        async with memory.budget.take(memory.budget.total_bytes, what="All of it"):
            with pytest.raises(Capacity):
                async with sessions.open(user, found.model, Realtime.names, emitted_nowhere, None, found):
                    pass
        async with talking(other, session_id) as again:
            assert again.events[0].session.antiphon_uncommitted_ms == 800


async def test_what_is_not_committed_has_a_bound(store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_buffer, "MOST_KEPT_BYTES", len(PCM) - 2)
    async with two_gateways(store) as (stages, other), talking(stages.gateway) as client:
        session_id = client.events[0].session.id
        await client.ask("session.update", "session.updated", session=MANUAL)
        await client.append(PCM)
        await client.settled()
        await drained(stages.gateway, client)
        async with talking(other, session_id) as again:
            assert not hasattr(again.events[0].session, "antiphon_uncommitted_ms")
            item = await again.say()
            shown = await again.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=item.id)
            assert base64.b64decode(shown.item.content[0].audio) == PCM


async def test_turns_are_detected_behind_what_was_not_committed(store: RedisServer) -> None:
    """The session goes on in a dialect, or with settings, that detect them: what came before belongs to none."""
    async with two_gateways(store) as (stages, other), talking(stages.gateway) as client:
        session_id = client.events[0].session.id
        await client.ask("session.update", "session.updated", session=MANUAL)
        await client.append(PCM)
        await client.settled()
        await drained(stages.gateway, client)
        sessions = other.gateway.sessions
        found = await sessions.find(Principal("default", "default"), session_id)
        opening = sessions.open(
            Principal("default", "default"), found.model, Realtime.names, emitted_nowhere, TurnDetection(), found
        )
        async with opening as opened:
            buffer = opened.session.buffer
            assert buffer.duration_ms == 200
            await opened.session.append_audio(bytes(48 * 1000))
            assert buffer.end == (len(PCM) + 48 * 1000) // 2
            assert buffer.start >= len(PCM) // 2  # silence follows: only what a turn's beginning may need is there
            assert opened.session.uncommitted() is None


async def emitted_nowhere(_: Event) -> None:
    pass
