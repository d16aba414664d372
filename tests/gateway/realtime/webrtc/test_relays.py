"""Calls through networks, by a real STUN and TURN server: coturn."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiortc")

from aioice import Candidate
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCIceServer, RTCIceTransportPolicy

from tests.fixtures.ports import free_port
from tests.fixtures.redis import RedisServer
from tests.fixtures.relay import PASSWORD, USERNAME, running_relay
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY
from tests.gateway.realtime.webrtc.calling import Caller, dialling
from tests.gateway.realtime.webrtc.test_calls import served

ELSEWHERE: dict[str, Any] = {"webrtc_addresses": ["203.0.113.7"]}
"""The gateway tells an address at which nobody reaches it."""


async def has_a_conversation(call: Caller) -> None:
    """Assert that events and speech arrive."""
    await call.until("session.created")
    await call.write("hello")
    await call.send("response.create")
    await call.until("response.done")
    await wait_until(lambda: call.loud_frames)


def path_of(call: Caller) -> tuple[Candidate, Candidate]:
    """Return the candidates that the call goes by: the client's, and the gateway's as the client knows it."""
    sctp = call.peer.sctp
    assert sctp is not None
    transport = sctp.transport.transport
    pair = transport._connection._nominated[1]  # pyright: ignore[reportPrivateUsage]
    return pair.local_candidate, pair.remote_candidate


def only(kind: str) -> Callable[[str], str]:
    """Return what takes all candidates but those of this kind out of an SDP."""
    return lambda sdp: re.sub(rf"a=candidate:(?!.* typ {kind}).*\r\n", "", sdp)


async def test_a_gateway_learns_its_address_by_stun(store: RedisServer, tmp_path: Path) -> None:
    async with (
        running_relay(tmp_path) as relay,
        served(store, **ELSEWHERE, webrtc_stun_server=relay.address) as stages,
        dialling(API_KEY, stages) as call,
    ):
        await has_a_conversation(call)
        _, gateway = path_of(call)
        assert (gateway.type, gateway.host) == ("srflx", "127.0.0.1")
        assert not relay.allocations


async def test_a_client_calls_through_its_relay_alone(store: RedisServer, tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, served(store) as stages:
        turn = RTCIceServer(urls=f"turn:{relay.address}", username=USERNAME, credential=PASSWORD)
        through = RTCConfiguration([turn], RTCIceTransportPolicy.RELAY, RTCBundlePolicy.MAX_BUNDLE)
        async with dialling(API_KEY, stages, configuration=through) as call:
            assert " typ relay" in call.peer.localDescription.sdp
            assert " typ host" not in call.peer.localDescription.sdp
            await has_a_conversation(call)
            client, _ = path_of(call)
            assert client.type == "relay"
        assert relay.allocations == 1


async def test_a_gateway_is_called_through_its_relay_alone(store: RedisServer, tmp_path: Path) -> None:
    """The client knows no other way to the gateway, and is behind NAT: its ports are not those that it tells."""
    closed_port, tells_relay = free_port(), only("relay")

    def signalled(sdp: str) -> str:
        if " typ relay" in sdp:
            return tells_relay(sdp)
        return re.sub(r"(a=candidate:\S+ \d udp \d+ \S+) \d+", rf"\g<1> {closed_port}", sdp)

    async with running_relay(tmp_path) as relay:
        turn: dict[str, Any] = {
            "webrtc_turn_server": relay.address,
            "webrtc_turn_username": USERNAME,
            "webrtc_turn_password": PASSWORD,
            "webrtc_candidate_networks": ["0.0.0.0/0"],  # the relay lets in whom the gateway tries
        }
        async with served(store, **ELSEWHERE, **turn) as stages:
            async with dialling(API_KEY, stages, signalled=signalled) as call:
                await has_a_conversation(call)
                _, gateway = path_of(call)
                assert gateway.type == "relay"
            assert relay.allocations == 1


@pytest.mark.parametrize("which", ["stun", "turn"])
async def test_a_server_that_is_away_costs_time_and_no_call(store: RedisServer, which: str) -> None:
    user: dict[str, Any] = {"webrtc_turn_username": USERNAME, "webrtc_turn_password": PASSWORD}
    away: dict[str, Any] = {f"webrtc_{which}_server": f"127.0.0.1:{free_port()}", **user}
    async with served(store, **away) as stages, dialling(API_KEY, stages) as call:
        await has_a_conversation(call)
        _, gateway = path_of(call)
        assert gateway.type == "host"
