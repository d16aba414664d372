"""A call's ICE: over the socket of all calls, with the addresses that the operator names.

aiortc makes an ICE agent of its own for each connection, with ports of its own. `use` puts ours in its place.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets

from aioice import Candidate, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import Connection, get_host_addresses, server_reflexive_candidate
from aiortc import RTCIceTransport

from services.gateway.realtime.webrtc.limits import IceServers
from services.gateway.realtime.webrtc.packet_gate import PacketGate
from services.gateway.realtime.webrtc.udp_port import UdpPort

# Packets that wait to be read: 2 s of audio, or what a data channel has on the way.
_WAITING_PACKETS = 256
_NAME_CHARS, _PASSWORD_CHARS = 16, 32

logger = logging.getLogger(__name__)


class CallIce(Connection):
    """`addresses` and `public_port`: where clients reach the socket."""

    def __init__(self, port: UdpPort, addresses: list[str], public_port: int, servers: IceServers) -> None:
        super().__init__(
            ice_controlling=False,
            stun_server=servers.stun,
            turn_server=servers.turn,
            turn_username=servers.turn_username,
            turn_password=servers.turn_password,
            use_ipv4=False,  # it opens no sockets of its own
            use_ipv6=False,
            local_username=_random(_NAME_CHARS),
            local_password=_random(_PASSWORD_CHARS),
        )
        self._port = port
        self._addresses = addresses
        self._public_port = public_port
        self.gate = PacketGate(lambda: False)

    @property
    def waiting(self) -> asyncio.Queue[tuple[bytes, int] | None]:
        """Packets that were not read yet, each with its component."""
        return self._queue

    def use(self, transport: RTCIceTransport) -> None:
        """Take the place of the agent that the transport has, before it does anything."""
        transport.iceGatherer._connection = self  # pyright: ignore[reportPrivateUsage]
        transport._connection = self  # pyright: ignore[reportPrivateUsage]
        transport._recv, transport._send = self.recv, self.send  # pyright: ignore[reportPrivateUsage]

    async def get_component_candidates(
        self,
        component: int,
        addresses: list[str],
        timeout: int = 5,  # noqa: ASYNC109
    ) -> list[Candidate]:
        link = self._port.link(self)
        self._protocols.append(link)
        found = [_host_candidate(component, address, self._public_port) for address in self._addresses]
        link.local_candidate = found[0]
        if self.stun_server is not None:
            try:
                async with asyncio.timeout(timeout):
                    reflexive, _ = await server_reflexive_candidate(link, self.stun_server)
                found.append(reflexive)
            except (stun.TransactionError, OSError) as error:  # TimeoutError is one
                logger.warning("the STUN server did not answer: %r", error)
        return found + await super().get_component_candidates(component, [], timeout)

    def data_received(self, data: bytes, component: int) -> None:
        if self.waiting.qsize() < _WAITING_PACKETS and self.gate.passes(data):
            super().data_received(data, component)


def reachable_addresses(port: UdpPort, named: list[str]) -> list[str]:
    """Return the addresses to tell clients: those that the operator names, or those that the socket has."""
    bound = ipaddress.ip_address(port.address[0])
    if named or not bound.is_unspecified:
        return named or [str(bound)]
    found = get_host_addresses(use_ipv4=bound.version == 4, use_ipv6=bound.version == 6)
    return found or ["127.0.0.1" if bound.version == 4 else "::1"]


def _host_candidate(component: int, address: str, port: int) -> Candidate:
    return Candidate(
        foundation=candidate_foundation("host", "udp", address),
        component=component,
        transport="udp",
        priority=candidate_priority(component, "host"),
        host=address,
        port=port,
        type="host",
    )


def _random(chars: int) -> str:
    return secrets.token_hex(chars // 2)
