"""Whatever a client of DashScope's sends, it gets an error event, and the next event is served."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import API_KEY, absent_workers, running_gateway
from tests.gateway.realtime.dashscope.hostile import FIELDS, KINDS, WORDS
from tests.gateway.realtime.dashscope.talking import PATH, encoded, jpeg
from tests.gateway.realtime.test_hostile_events import check
from tests.gateway.responses.conftest import card

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=24,
)
events = st.builds(
    lambda kind, fields: json.dumps({**fields, "type": kind}),
    st.sampled_from([kind for kind in KINDS if kind != "session.finish"]),
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=6),
)
pictures = st.tuples(st.integers(0, 400), st.binary(max_size=8)).map(
    lambda change: jpeg()[: change[0]] + change[1] + jpeg()[change[0] + len(change[1]) :]
)
frames = pictures.map(lambda data: json.dumps({"type": "input_image_buffer.append", "image": encoded(data)}))
messages = events | frames | st.text(max_size=40) | st.binary(max_size=40) | values.map(json.dumps)


async def test_the_session_survives_every_event(store: RedisServer) -> None:
    """Turns fail: no worker answers."""
    tried: list[str | bytes] = []

    # All are drawn first: Hypothesis wants nobody else to use random numbers meanwhile.
    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(messages)
    def draw(message: str | bytes) -> None:
        tried.append(message)

    draw()
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
