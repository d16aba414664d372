"""Whatever a client sends, it gets an error event or a close code, and the next event is served."""

from __future__ import annotations

import json

from websockets.asyncio.client import ClientConnection, connect

from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import API_KEY, INSTRUCT, absent_workers, running_gateway
from tests.gateway.realtime.hostile import Message, any_fields, any_messages, drawn
from tests.gateway.realtime.live.conversing import calling_card

KINDS = [
    "session.start",
    "session.update",
    "session.input_audio.append",
    "session.input_audio.mute",
    "session.input_audio.unmute",
    "session.instructions.append",
    "session.thinking.append",
    "session.commentary.append",
    "session.output_audio.fixture.play",
    "response.create",
    "none",
]
# fmt: off
FIELDS = [
    "event_id", "session", "audio", "content", "delegation_id", "delegation", "type", "model", "instructions", "input",
    "role", "text", "format", "rate", "output", "voice", "id", "store", "triggers", "client", "safety_identifier",
    "acknowledgement_delay_ms", "responses", "item",
]
WORDS = [
    "", "client", "responses", "user", "assistant", "developer", "input_text", "output_text", "message", "AAAA",
    "audio/pcm", "audio/pcmu", "chelsie", INSTRUCT.name, "ä🙂", "sess_1", "call_1",
]
# fmt: on
RIGHT = '{"type": "session.update", "session": {}, "event_id": "right"}'


async def check(socket: ClientConnection, message: Message) -> None:
    """Send a message. Whatever it does, an event that is right gets its answer."""
    await socket.send(message)
    await socket.send(RIGHT)
    while (answer := json.loads(await socket.recv())).get("client_event_id") != "right":
        if answer["type"] == "error":
            assert answer["error"]["message"]
            assert answer["error"]["code"] != "internal_error"


async def test_the_session_survives_every_event(store: RedisServer) -> None:
    """Turns fail: no worker answers."""
    tried = drawn(any_messages(KINDS, WORDS, FIELDS), 100)
    async with absent_workers(store.url, calling_card()), running_gateway(store.url) as gateway:
        url = f"ws://127.0.0.1:{gateway.port}/v1/live/sessions"
        async with connect(url, additional_headers={"authorization": f"Bearer {API_KEY}"}, compression=None) as socket:
            await socket.send(json.dumps({"type": "session.start", "session": {"model": INSTRUCT.name}}))
            assert json.loads(await socket.recv())["type"] == "session.started"
            for message in tried:
                await check(socket, message)


async def test_whatever_a_session_is_to_start_with_it_starts_or_is_refused(store: RedisServer) -> None:
    tried = drawn(any_fields(WORDS, FIELDS), 30)
    async with absent_workers(store.url, calling_card()), running_gateway(store.url) as gateway:
        url = f"ws://127.0.0.1:{gateway.port}/v1/live/sessions"
        headers = {"authorization": f"Bearer {API_KEY}"}
        for session in tried:
            async with connect(url, additional_headers=headers, compression=None) as socket:
                await socket.send(json.dumps({"type": "session.start", "session": {"model": INSTRUCT.name, **session}}))
                answer = json.loads(await socket.recv())
                if answer["type"] != "session.started":
                    assert answer["error"]["code"] != "internal_error"
                    await socket.wait_closed()
                    assert socket.close_code in (1008, 1013)
