"""Which addresses somebody else may have a service talk to: public ones, and what the operator adds."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Deprecated, so that Python takes them for public, and still routed in some networks: IPv6's site-local addresses, and
# the relays of 6to4.
DEPRECATED: tuple[Network, ...] = (
    ipaddress.IPv6Network("fec0::/10"),
    ipaddress.IPv4Network("192.88.99.0/24"),
)


def is_allowed(address: Address, networks: Iterable[Network]) -> bool:
    """Whether `address`, or the IPv4 address that it is another spelling of, is public or in one of `networks`."""
    meant = translated(address)
    if any(meant.version == network.version and meant in network for network in networks):
        return True
    if isinstance(meant, ipaddress.IPv6Address) and (meant.sixtofour or meant.teredo):
        return False  # tunnels to an address of somebody's choice
    if any(meant.version == network.version and meant in network for network in DEPRECATED):
        return False
    return meant.is_global and not meant.is_multicast and not meant.is_reserved


def translated(address: Address) -> Address:
    """The IPv4 address that a mapped or NAT64 address leads to, else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address
