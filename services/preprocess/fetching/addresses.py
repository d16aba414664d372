"""Which addresses media may be fetched from: public ones, and what the operator adds."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.addresses import Address, Network, is_allowed


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """Bounds of one fetch. `networks` are allowed though they are not public."""

    ports: tuple[int, ...] = (80, 443)
    networks: tuple[Network, ...] = ()
    redirects: int = 3
    connect_s: float = 5.0
    total_s: float = 30.0

    def allows(self, address: Address) -> bool:
        """Whether to connect to `address`, or to the IPv4 address that it is another spelling of."""
        return is_allowed(address, self.networks)
