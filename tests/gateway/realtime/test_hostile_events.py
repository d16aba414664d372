"""Whatever a client sends, it gets an error event or a close code, and the next event is served."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import API_KEY, INSTRUCT, absent_workers, running_gateway
from tests.gateway.realtime.hostile import Message, any_messages, drawn
from tests.gateway.responses.conftest import card

KINDS = [
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "conversation.item.create",
    "conversation.item.retrieve",
    "conversation.item.delete",
    "conversation.item.truncate",
    "response.create",
    "response.cancel",
    "none",
]
# fmt: off
FIELDS = [
    "event_id", "session", "audio", "item", "item_id", "previous_item_id", "content_index", "audio_end_ms", "response",
    "response_id", "type", "role", "content", "text", "image_url", "transcript", "input", "output", "voice", "format",
    "turn_detection", "threshold", "silence_duration_ms", "prefix_padding_ms", "create_response", "idle_timeout_ms",
    "instructions", "output_modalities", "metadata", "tools", "conversation", "id", "seed", "talker", "tool_choice",
    "truncation", "retention_ratio", "transcription", "language", "prompt", "eagerness", "modalities",
    "input_audio_format", "input_audio_transcription", "parallel_tool_calls", "name", "call_id",
    "arguments", "parameters", "function", "properties",
]
WORDS = [
    "", "message", "user", "assistant", "system", "input_text", "input_audio", "input_image", "realtime", "AAAA",
    "data:image/png;base64,AA", "audio/pcm", "none", "root", "item_reference", "server_vad", "inf", "audio", "ä🙂",
    "function", "function_call", "function_call_output", "required", "{}",
    "semantic_vad", "auto", "high", "retention_ratio", "pcm16", "en",
]
# fmt: on


async def check(socket: ClientConnection, message: Message) -> None:
    """Send a message. Whatever it does, an event that is right gets its answer."""
    await socket.send(message)
    await socket.send('{"type": "input_audio_buffer.clear", "event_id": "right"}')
    while (answer := json.loads(await socket.recv()))["type"] != "input_audio_buffer.cleared":
        if answer["type"] == "error":
            assert answer["error"]["message"]
            assert answer["error"]["code"] != "internal_error"


@pytest.mark.parametrize("dialect", ["", "realtime=v1"])
async def test_the_session_survives_every_event(store: RedisServer, dialect: str) -> None:
    """Turns fail: no worker answers."""
    tried = drawn(any_messages(KINDS, WORDS, FIELDS), 100)
    async with absent_workers(store.url, card()), running_gateway(store.url) as gateway:
        url = f"ws://127.0.0.1:{gateway.port}/v1/realtime?model={INSTRUCT.name}"
        headers = {"authorization": f"Bearer {API_KEY}", "openai-beta": dialect}
        async with connect(url, additional_headers=headers, compression=None) as socket:
            for message in tried:
                await check(socket, message)


async def test_deep_and_wide_events_are_refused(store: RedisServer) -> None:
    async with absent_workers(store.url, card()), running_gateway(store.url) as gateway:
        url = f"ws://127.0.0.1:{gateway.port}/v1/realtime"
        async with connect(url, additional_headers={"authorization": f"Bearer {API_KEY}"}, compression=None) as socket:
            assert json.loads(await socket.recv())["type"] == "session.created"

            async def code(message: str) -> Any:
                await socket.send(message)
                return json.loads(await socket.recv())["error"]["code"]

            assert await code("[" * 50_000) == "invalid_json"
            assert await code(json.dumps({"type": "response.cancel", "x": [[]] * 100_000})) == "too_many_values"
            assert await code('{"type": "\\ud800"}') == "invalid_json"
