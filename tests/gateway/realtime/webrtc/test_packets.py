"""What reaches a call of the datagrams that anybody may send, and how much of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("aiortc")

from aioice import stun

from services.gateway.realtime.webrtc.call import Call
from services.gateway.realtime.webrtc.ice import CallIce
from services.gateway.realtime.webrtc.limits import IceServers
from services.gateway.realtime.webrtc.packet_gate import PacketGate
from services.gateway.realtime.webrtc.udp_port import MAX_PEERS, UdpPort
from tests.fixtures.wait import wait_until

DTLS = b"\x16" + bytes(40)


def media(source: int, *, is_report: bool = False) -> bytes:
    number = source.to_bytes(4, "big")
    return b"\x80\xc8" + bytes(2) + number + bytes(20) if is_report else b"\x80\x6f" + bytes(6) + number + bytes(20)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_audio_passes_as_quick_as_it_is_spoken() -> None:
    clock = Clock()
    gate = PacketGate(lambda: False, clock)
    for _ in range(1000):  # two streams' worth: 10 ms packets, with some reports
        clock.now_s += 0.01
        assert gate.passes(media(1))
    assert sum(gate.passes(media(1)) for _ in range(1000)) <= 300
    clock.now_s += 1
    assert gate.passes(media(1))


def test_a_call_has_few_sources() -> None:
    gate = PacketGate(lambda: False, Clock())
    assert sum(gate.passes(media(number, is_report=number % 2 == 0)) for number in range(100)) == 8
    assert gate.passes(media(0, is_report=True))


def test_data_waits_while_events_do_and_what_is_neither_never_passes() -> None:
    busy = [False]
    gate = PacketGate(lambda: busy[0], Clock())
    assert gate.passes(DTLS)
    busy[0] = True
    assert not gate.passes(DTLS)
    assert gate.passes(media(1))
    for packet in (b"", b"\x00" * 30, b"\x40" * 30, b"\xff" * 30, b"\x80\x6f"):
        assert not gate.passes(packet)
    busy[0] = False
    assert sum(gate.passes(DTLS) for _ in range(10_000)) <= 2000


class Peer(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self.transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.answers.put_nowait(data)


async def peer_of(port: UdpPort) -> Peer:
    _, made = await asyncio.get_running_loop().create_datagram_endpoint(Peer, remote_addr=port.address)
    return made


def request(ice: CallIce, password: str | None = None) -> stun.Message:
    made = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    made.attributes |= {"USERNAME": f"{ice.local_username}:peer", "PRIORITY": 1, "ICE-CONTROLLING": 1}
    made.add_message_integrity((password or ice.local_password).encode())
    return made


async def test_the_port_answers_those_alone_that_know_a_calls_password() -> None:
    port = await UdpPort.open("127.0.0.1", 0)
    ice = CallIce(port, ["127.0.0.1"], port.address[1], IceServers())
    await ice.gather_candidates()
    stranger, client = await peer_of(port), await peer_of(port)
    for data in (DTLS, media(7), b"", b"\x00\x01\x00\x00\x21\x12\xa4\x42", bytes(request(ice, "wrong" * 5))):
        stranger.transport.sendto(data)
    client.transport.sendto(bytes(request(ice)))
    answer = stun.parse_message(await client.answers.get())
    assert answer.message_class is stun.Class.RESPONSE
    # What came before it was handled before it.
    assert stranger.answers.empty()
    assert ice.waiting.empty()
    client.transport.sendto(media(7))
    assert await ice.waiting.get() == (media(7), 1)
    # A client has so many addresses, and no more.
    others = [await peer_of(port) for _ in range(MAX_PEERS)]
    for other in others:
        other.transport.sendto(bytes(request(ice)))
    client.transport.sendto(bytes(request(ice)))
    await client.answers.get()
    assert [other.answers.qsize() for other in others] == [1] * (MAX_PEERS - 1) + [0]
    await ice.close()
    others[-1].transport.sendto(bytes(request(ice)))
    for each in (stranger, client, *others):
        each.transport.close()
    port.close()


async def test_of_a_flood_of_signed_requests_a_call_answers_few() -> None:
    clock = Clock()
    port = await UdpPort.open("127.0.0.1", 0, clock)
    flooded, other = [CallIce(port, ["127.0.0.1"], port.address[1], IceServers()) for _ in range(2)]
    for ice in (flooded, other):
        await ice.gather_candidates()
    client, neighbour = await peer_of(port), await peer_of(port)

    async def are_answered(count: int, *requests: stun.Message) -> None:
        """Send them, and see that so many of them are answered."""
        for each in requests:
            client.transport.sendto(bytes(each))
        neighbour.transport.sendto(bytes(request(other)))
        await neighbour.answers.get()  # what came before it was handled before it
        await wait_until(lambda: client.answers.qsize() >= count)
        assert client.answers.qsize() == count
        while not client.answers.empty():
            client.answers.get_nowait()

    await are_answered(0, *[request(flooded, "wrong" * 5) for _ in range(300)])
    flood = [request(flooded) for _ in range(100)]
    for count in (100, 100, 0, 0):  # those of two seconds, none of which the forged ones took
        await are_answered(count, *flood)
    clock.now_s += 0.1
    await are_answered(10, *flood)
    for ice in (flooded, other):
        await ice.close()
    client.transport.close()
    neighbour.transport.close()
    port.close()


async def test_what_nobody_reads_is_bounded() -> None:
    port = await UdpPort.open("127.0.0.1", 0)
    ice = CallIce(port, ["127.0.0.1"], port.address[1], IceServers())
    for _ in range(3000):
        ice.data_received(DTLS, 1)
    assert ice.waiting.qsize() == 256
    port.close()


async def test_events_that_nobody_reads_count_with_the_memory_that_they_take() -> None:
    port = await UdpPort.open("127.0.0.1", 0)
    ice = CallIce(port, ["127.0.0.1"], port.address[1], IceServers())
    call = Call(ice)
    call._on_message("ab" * 75_000)  # pyright: ignore[reportPrivateUsage]
    assert not ice.gate.is_busy()
    call._on_message("水" * 150_000)  # pyright: ignore[reportPrivateUsage]
    assert ice.gate.is_busy()  # 600 kB, and its UTF-8 of 450
    assert (await call.receive())["type"] == "websocket.connect"
    for _ in range(2):
        await call.receive()
    assert not ice.gate.is_busy()
    await call.close()
    port.close()
