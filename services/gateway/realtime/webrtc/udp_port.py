"""The UDP socket of all calls: one port, whatever their number."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from aioice import stun
from aioice.ice import Connection, StunProtocol

from services.gateway.realtime.webrtc.packet_gate import Allowance

# Of one call: a client has one for each of its networks, and few more as it moves between them.
MAX_PEERS = 16
# Of one call, from all its peers: a client begins a check every 20 to 50 ms at first, then some a second.
_REQUESTS_A_SECOND = 100.0
_BUFFER_BYTES = 4 * 1024**2
_STUN_COOKIE = b"\x21\x12\xa4\x42"

Peer = tuple[str, int]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Link:
    """A call's end of the socket. `requests`: how many signed ones are answered. Others take none of them, so that
    nobody else uses them up."""

    protocol: StunProtocol
    requests: Allowance


class UdpPort(asyncio.DatagramProtocol):
    """Hands each datagram to its call, and drops all others without an answer.

    A request of STUN is its call's if it names the call's user and is signed with the call's password, which only the
    client has that got the answer. More of them than a call needs are dropped. Media is taken from where such a request
    came from. Responses of STUN go to whoever waits for them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.address: Peer = ("", 0)
        self._clock = clock
        self._transport: asyncio.DatagramTransport
        # By the user's name in ICE.
        self._links: dict[str, _Link] = {}
        self._peers: dict[Peer, StunProtocol] = {}

    @classmethod
    async def open(cls, host: str, port: int, clock: Callable[[], float] = time.monotonic) -> UdpPort:
        """Raise OSError where it can't be bound."""
        loop = asyncio.get_running_loop()
        _, opened = await loop.create_datagram_endpoint(lambda: cls(clock), local_addr=(host, port))
        return opened

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.address = transport.get_extra_info("sockname")[:2]
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)

    def link(self, ice: Connection) -> StunProtocol:
        """Return a call's end of the socket, until it is closed."""
        link = StunProtocol(ice)
        link.connection_made(_Share(self, link, ice.local_username))
        self._links[ice.local_username] = _Link(link, Allowance(_REQUESTS_A_SECOND, self._clock))
        return link

    def unlink(self, name: str, link: StunProtocol) -> None:
        if (own := self._links.get(name)) is not None and own.protocol is link:
            del self._links[name]
        for peer in [peer for peer, its in self._peers.items() if its is link]:
            del self._peers[peer]

    def send(self, data: bytes, peer: Peer) -> None:
        self._transport.sendto(data, peer)

    def error_received(self, exc: Exception) -> None:
        """Ignore that a peer's port is closed: its call notices."""

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        peer: Peer = addr[0], addr[1]
        if data[4:8] == _STUN_COOKIE and data[0] < 4:
            self._on_stun(data, peer)
        elif (link := self._peers.get(peer)) is not None:
            link.receiver.data_received(data, 1)

    def _on_stun(self, data: bytes, peer: Peer) -> None:
        try:
            message = stun.parse_message(data)
        except Exception:  # whatever a parser raises for what anybody may send
            logger.debug("a malformed message of STUN", exc_info=True)
            return
        if message.message_class is not stun.Class.REQUEST:
            for link in self._links.values():
                if (waiting := link.protocol.transactions.get(message.transaction_id)) is not None:
                    waiting.response_received(message, peer)
                    return
        elif (link := self._asked(message)) is not None and self._add(peer, link):
            link.receiver.request_received(message, peer, link)

    def _asked(self, request: stun.Message) -> StunProtocol | None:
        """Return the call that a signed request is for, unless it has had enough of them."""
        link = self._links.get(str(request.attributes.get("USERNAME", "")).partition(":")[0])
        if link is None or "PRIORITY" not in request.attributes or link.requests.is_spent:
            return None
        is_signed = request.check_message_integrity(link.protocol.receiver.local_password.encode())
        return link.protocol if is_signed and link.requests.take() else None

    def _add(self, peer: Peer, link: StunProtocol) -> bool:
        if self._peers.get(peer) is not link:
            if sum(its is link for its in self._peers.values()) >= MAX_PEERS:
                return False
            self._peers[peer] = link
        return True


class _Share(asyncio.DatagramTransport):
    """A call's share of the socket, as its transport."""

    def __init__(self, port: UdpPort, link: StunProtocol, name: str) -> None:
        super().__init__()
        self._port = port
        self._link = link
        self._name = name

    def sendto(self, data: Any, addr: Any = None) -> None:
        self._port.send(data, addr)

    def close(self) -> None:
        self._port.unlink(self._name, self._link)
        self._link.connection_lost(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._port.address if name == "sockname" else default
