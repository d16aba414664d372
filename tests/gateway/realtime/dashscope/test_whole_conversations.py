"""One conversation, spoken, interrupted, with a function and a camera, held by both interfaces of DashScope's SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from dashscope import Client

from tests.clients.conversations import LONG, OSLO, SCRIPT
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.realtime.dashscope.talking import at_16_khz, encoded, jpeg, talking, url_of
from tests.gateway.realtime.obedient_stages import stages
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.responses.conftest import WEATHER
from tests.gateway.scripted.stages import Stages

__all__ = ["stages"]

TOOL = {"type": "function", "function": {name: WEATHER[name] for name in ("name", "parameters")}}
HELLO = silence(400) + said("hello") + silence(1200)
"""A turn, with the silence that ends it by default."""
SESSION: dict[str, Any] = {"instructions": SCRIPT, "tools": [TOOL], "enable_input_audio_transcription": False}
Event = dict[str, Any]
_EVENT_BYTES = 3200
"""100 ms at 16 kHz."""


def hold(sdk: Any, until: Callable[[str], Event]) -> None:
    """Hold the conversation. `until` returns the next event of a type."""

    def say(pcm: bytes) -> None:
        recorded = at_16_khz(pcm)
        for at in range(0, len(recorded), _EVENT_BYTES):
            sdk.append_audio(encoded(recorded[at : at + _EVENT_BYTES]))

    def answer() -> str:
        while (done := until("response.done")["response"])["status"] == "cancelled":
            pass
        assert done["status"] == "completed"
        return done["output"][0]["content"][0]["transcript"]

    def write(text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        sdk.create_item({"type": "message", "role": "user", "content": content})
        sdk.create_response()

    middle = len(HELLO) // 4 * 2
    say(HELLO[:middle])
    sdk.append_video(encoded(jpeg()))
    say(HELLO[middle:])
    for _ in range(10):
        until("response.audio.delta")
    say(HELLO)
    # The server says what was heard.
    heard = answer()
    assert heard.startswith("w0")
    assert " ".join(LONG).startswith(heard)
    assert heard != " ".join(LONG)
    write("read 1")
    assert answer() == "<image>\n<audio>"
    write(OSLO)
    call = until("response.function_call_arguments.done")
    assert json.loads(call["arguments"]) == {"city": "Oslo"}
    until("response.done")
    sdk.create_item({"type": "function_call_output", "call_id": call["call_id"], "output": "Rain."})
    sdk.create_response()
    assert answer() == "It rains in Oslo."


async def test_the_first_interface(stages: Stages) -> None:
    loop = asyncio.get_running_loop()
    async with talking(stages, **SESSION) as talk:
        seen = 0

        async def next_event() -> Event:
            nonlocal seen
            await wait_until(lambda: len(talk.events) > seen)
            seen += 1
            return talk.events[seen - 1]

        def until(kind: str) -> Event:
            while (event := asyncio.run_coroutine_threadsafe(next_event(), loop).result())["type"] != kind:
                assert event["type"] != "error", event
            return event

        await asyncio.to_thread(hold, talk.sdk, until)


@pytest.mark.filterwarnings("ignore:dashscope 2.0 audio API is a preview")
async def test_the_second_interface(stages: Stages) -> None:
    def converse(url: str) -> None:
        with Client(api_key=API_KEY, workspace="ours").audio.realtime.connect(
            model=INSTRUCT.name, ws_url=url
        ) as session:

            def until(kind: str) -> Event:
                while (event := session.recv_event()) is None or event["type"] != kind:
                    assert event is not None
                return event

            session.update_session(["text", "audio"], **SESSION)
            until("session.updated")
            hold(session, until)
            session.end_session()
            until("session.finished")

    await asyncio.to_thread(converse, url_of(stages))
