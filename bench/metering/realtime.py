"""A client of the Realtime API: a session with one response."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from bench.metering.plan import STORY, Plan
from bench.metering.received import Received
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.story import SAMPLES_PER_FRAME

_REFUSED = (429, 503)
_SOUND = base64.b64encode(bytes(4800)).decode()
"""100 ms."""


async def ask_in_session(plan: Plan, port: int, key: str, received: Received) -> None:
    """Have the plan's turn as the response of a session. Raise OSError where the gateway takes no connection."""
    url = f"ws://127.0.0.1:{port}/v1/realtime?model={INSTRUCT.name}"
    headers = {"authorization": f"Bearer {key}"}
    try:
        async with connect(url, additional_headers=headers, compression=None, open_timeout=None) as socket:
            await _converse(plan, socket, received)
    except InvalidStatus as refused:
        received.ended = "refused" if refused.response.status_code in _REFUSED else "failed"
        received.error = str(refused.response.status_code)
    except (ConnectionClosed, InvalidHandshake) as broken:
        received.error = type(broken).__name__


async def _converse(plan: Plan, socket: ClientConnection, received: Received) -> None:
    part = {"type": "input_audio", "audio": _SOUND} if plan.hears else {"type": "input_text", "text": "hello"}
    item = {"type": "message", "role": "user", "content": [part]}
    modalities = ["audio"] if plan.speaks else ["text"]
    options = {"output_modalities": modalities, "seed": plan.number}
    await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
    await socket.send(json.dumps({"type": "response.create", "response": options}))
    stopping = asyncio.create_task(_stop(plan, socket))
    samples = 0
    try:
        async for text in socket:
            event = json.loads(text)
            match event["type"]:
                case "response.output_text.delta" | "response.output_audio_transcript.delta":
                    received.text_tokens += 1
                case "response.output_audio.delta":
                    samples += len(base64.b64decode(event["delta"])) // 2
                    received.frames = (samples + 1) // SAMPLES_PER_FRAME  # the first frame gives a sample less
                case "response.done":
                    return _note_done(event["response"], received)
                case "error":
                    received.ended, received.error = "failed", event["error"]["code"]
                    return
                case _:
                    pass
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)


async def _stop(plan: Plan, socket: ClientConnection) -> None:
    if plan.end == "cancel":
        await plan.has_acted.wait()
        with suppress(ConnectionClosed):
            await socket.send(json.dumps({"type": "response.cancel"}))


def _note_done(response: dict[str, Any], received: Received) -> None:
    """Note how the response ended. Its usage has one token more than was seen where the text's end was sent, too."""
    usage, details = response["usage"], response["status_details"] or {}
    error = details.get("error") or {}
    received.limit = details.get("antiphon_limit", "")
    if usage is not None:
        received.prompt_tokens = usage["input_tokens"]
        text_tokens = usage["output_token_details"]["text_tokens"]
        if received.text_tokens == STORY.words and text_tokens == received.text_tokens + 1:
            received.text_tokens = text_tokens
    received.error = error.get("code", "")
    has_nothing = not (received.text_tokens or received.frames)
    match response["status"]:
        case "completed" | "incomplete":
            received.ended = "ok"
        case "cancelled":
            received.ended = "cancelled"
        case _:
            received.ended = "refused" if has_nothing and received.error != "scripted" else "failed"
