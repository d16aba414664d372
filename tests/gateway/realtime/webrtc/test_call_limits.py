"""What calls may take, and where packets go because of them."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from typing import Any

import httpx
import pytest

from services.common.settings import SettingsError
from services.gateway.settings import GatewaySettings
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, running_gateway
from tests.gateway.realtime.test_session_limits import AS_KEY, ONE, has_accounts
from tests.gateway.realtime.webrtc.calling import caller, calling, offer_of, post
from tests.gateway.realtime.webrtc.test_calls import WEBRTC, is_over, served
from tests.gateway.scripted.control_plane import KEY
from tests.gateway.scripted.stages import Stages
from tests.gateway.turn.test_limits import limited


async def refused_offer(stages: Stages, key: str = API_KEY) -> tuple[int, str]:
    answer = await offered(stages, key)
    return answer.status_code, answer.json()["error"]["code"]


async def offered(stages: Stages, key: str = API_KEY) -> httpx.Response:
    """Offer a call whose client never connects."""
    call = caller()
    answer = await post(stages, await offer_of(call.peer), key)
    await call.peer.close()
    return answer


@pytest.mark.parametrize("most", ["webrtc_max_calls", "realtime_max_sessions"])
async def test_a_call_that_never_connects_gives_its_place_back(store: RedisServer, most: str) -> None:
    async with served(store, webrtc_connect_s=1.0, **{most: 1}) as stages:
        call = caller()
        answer = await post(stages, await offer_of(call.peer))  # which the client does not take
        assert answer.status_code == 201
        assert await refused_offer(stages) == (429, "too_many_sessions")
        await wait_until(lambda: is_over(stages))
        assert 'realtime_calls_total{outcome="unconnected"}' in await stages.gateway.scrape()
        await call.peer.close()
        async with calling(stages):
            assert not is_over(stages)


async def test_one_tenant_that_does_not_connect_leaves_room_to_others(store: RedisServer) -> None:
    their_key = "their key"
    keys = {"others": [hashlib.sha256(their_key.encode()).hexdigest()]}
    async with served(store, webrtc_max_calls=8, webrtc_connect_s=60, tenant_keys=keys) as stages:
        async with calling(stages):  # which waits for nobody
            lost = [await offered(stages) for _ in range(2)]
            assert [each.status_code for each in lost] == [201, 201]
            refused = await offered(stages)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_sessions")
            assert int(refused.headers["retry-after"]) >= 1
            assert "not connected yet" in refused.json()["error"]["message"]
            async with calling(stages, key=their_key):
                pass
        for each in lost:
            await hang_up(stages, each.headers["location"])
        await wait_until(lambda: is_over(stages))
        async with calling(stages):
            pass


async def hang_up(stages: Stages, location: str) -> None:
    answer = await stages.gateway.client.post(location + "/hangup", headers={"authorization": f"Bearer {API_KEY}"})
    assert answer.status_code == 200


async def test_a_call_has_a_place_among_the_concurrent_sessions(store: RedisServer) -> None:
    async with limited(store, ONE, **WEBRTC) as running:
        async with calling(running.stages, key=KEY):
            await wait_until(lambda: has_accounts(store, 1))
            assert await refused_offer(running.stages, KEY) == (429, "rate_limit_exceeded")
        await wait_until(lambda: has_accounts(store, 0))
    assert AS_KEY


class _Listening(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.datagrams: list[bytes] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.datagrams.append(data)


@pytest.mark.parametrize("allowed", [False, True])
async def test_packets_go_to_no_address_that_a_client_names_unless_it_is_allowed(
    store: RedisServer, allowed: bool
) -> None:
    networks = ["127.0.0.0/8"] if allowed else []
    transport, listening = await asyncio.get_running_loop().create_datagram_endpoint(
        _Listening, local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]
    async with served(store, webrtc_connect_s=1.0, webrtc_candidate_networks=networks) as stages:
        call = caller()
        offer = await offer_of(call.peer)
        named = f"a=candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host"
        offer = re.sub(r"a=candidate:.*", named, offer)
        assert named in offer
        assert (await post(stages, offer)).status_code == 201
        await wait_until(lambda: is_over(stages))
        await call.peer.close()
    transport.close()
    assert bool(listening.datagrams) is allowed


async def test_a_gateway_without_the_package_says_what_it_needs(
    store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("services.gateway.realtime.webrtc.")]:
        if name.rpartition(".")[2] in ("calls", "call", "ice", "speaker", "microphone", "connection"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiortc", None)
    with pytest.raises(SettingsError, match=r"ANTIPHON_WEBRTC=true needs .* install antiphon\[webrtc\]"):
        async with running_gateway(store.url, **WEBRTC):
            pass


async def test_calls_are_not_served_unless_asked_for(store: RedisServer) -> None:
    async with running_gateway(store.url) as gateway:
        answer = await gateway.client.post("/v1/realtime/calls", content="v=0")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "url_not_served")
    assert not GatewaySettings(redis_url=store.url, allow_anonymous=True).webrtc
