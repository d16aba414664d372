"""Whatever a client of DashScope's sends, it gets an error event, and the next event is served."""

from __future__ import annotations

import json

from hypothesis import strategies as st
from websockets.asyncio.client import connect

from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import API_KEY, absent_workers, running_gateway
from tests.gateway.realtime.dashscope.hostile import FIELDS, KINDS, WORDS
from tests.gateway.realtime.dashscope.talking import PATH, encoded, jpeg
from tests.gateway.realtime.hostile import any_messages, drawn
from tests.gateway.realtime.test_hostile_events import check
from tests.gateway.responses.conftest import card

pictures = st.tuples(st.integers(0, 400), st.binary(max_size=8)).map(
    lambda change: jpeg()[: change[0]] + change[1] + jpeg()[change[0] + len(change[1]) :]
)
frames = pictures.map(lambda data: json.dumps({"type": "input_image_buffer.append", "image": encoded(data)}))
kinds = [kind for kind in KINDS if kind != "session.finish"]


async def test_the_session_survives_every_event(store: RedisServer) -> None:
    """Turns fail: no worker answers."""
    tried = drawn(any_messages(kinds, WORDS, FIELDS) | frames, 100)
    async with absent_workers(store.url, card()), running_gateway(store.url) as gateway:
        url = f"ws://127.0.0.1:{gateway.port}{PATH}"
        async with connect(url, additional_headers={"authorization": f"Bearer {API_KEY}"}, compression=None) as socket:
            for message in tried:
                await check(socket, message)
            # Also an end that is asked for in the middle of it all.
            await socket.send('{"type": "session.finish"}')
            async for told in socket:
                event = json.loads(told)
                assert event["type"] != "error" or event["error"]["code"] != "internal_error"
        assert socket.close_code == 1000
