"""Settings of calls: realtime sessions over WebRTC."""

from __future__ import annotations

import ipaddress

from pydantic import Field, SecretStr, field_validator, model_validator

from services.common.settings import ServiceSettings
from services.gateway.realtime.webrtc.limits import IceServers, WebRtcLimits


class WebRtcSettings(ServiceSettings):
    webrtc: bool = Field(
        default=False,
        description="serve POST /v1/realtime/calls: realtime sessions over WebRTC; needs antiphon[webrtc]",
    )
    webrtc_host: str = Field(
        default="0.0.0.0",  # noqa: S104
        description="address that the UDP socket of all calls binds: IPv4, or IPv6 for calls over that alone",
    )
    webrtc_port: int = Field(default=8903, ge=0, le=65535, description="its port; 0 = any free port")
    webrtc_addresses: list[str] = Field(
        default_factory=list[str],
        description='JSON, addresses at which clients reach that socket: ["203.0.113.7"]; [] = those of its interfaces',
    )
    webrtc_node_addresses: str = Field(
        default="",
        description="addresses of this node, with commas, as Kubernetes lists them; without webrtc_addresses clients"
        " reach the socket at those of webrtc_host's family",
    )
    webrtc_public_port: int = Field(
        default=0, ge=0, le=65535, description="port at which clients reach it; 0 = webrtc_port"
    )
    webrtc_candidate_networks: list[str] = Field(
        default_factory=list[str],
        description='JSON, networks of clients\' ICE candidates that are tried though not public: ["10.1.0.0/16"]',
    )
    webrtc_max_calls: int = Field(
        default=20, ge=1, le=10_000, description="calls of one gateway; one too many gets 429"
    )
    webrtc_connect_s: float = Field(
        default=15.0, gt=0, le=60, description="a call ends if its client is not connected after so long"
    )
    webrtc_stun_server: str = Field(
        default="",
        pattern=r"^([^\s/:@]+:[0-9]{1,5})?$",
        description="host:port of a STUN server that tells the gateway its public address, over IPv4",
    )
    webrtc_turn_server: str = Field(
        default="",
        pattern=r"^([^\s/:@]+:[0-9]{1,5})?$",
        description="host:port of a TURN server that relays calls to this gateway, over UDP",
    )
    webrtc_turn_username: str = Field(default="", description="its user")
    webrtc_turn_password: SecretStr = Field(default=SecretStr(""), description="its user's password")

    @field_validator("webrtc_host")
    @classmethod
    def is_address(cls, host: str) -> str:
        ipaddress.ip_address(host)
        return host

    @field_validator("webrtc_addresses")
    @classmethod
    def are_addresses(cls, addresses: list[str]) -> list[str]:
        return [str(ipaddress.ip_address(address)) for address in addresses]

    @field_validator("webrtc_node_addresses")
    @classmethod
    def are_listed(cls, addresses: str) -> str:
        return ",".join(str(ipaddress.ip_address(address)) for address in addresses.split(",") if address)

    @field_validator("webrtc_candidate_networks")
    @classmethod
    def are_networks(cls, networks: list[str]) -> list[str]:
        return [str(ipaddress.ip_network(network)) for network in networks]

    @model_validator(mode="after")
    def of_one_family(self) -> WebRtcSettings:
        version = ipaddress.ip_address(self.webrtc_host).version
        if any(ipaddress.ip_address(address).version != version for address in self.webrtc_addresses):
            raise ValueError("ANTIPHON_WEBRTC_ADDRESSES and ANTIPHON_WEBRTC_HOST are not both IPv4 or both IPv6")
        if self.webrtc_node_addresses and not self.webrtc_reachable_at:
            raise ValueError(
                f"ANTIPHON_WEBRTC_NODE_ADDRESSES has no IPv{version} address, which ANTIPHON_WEBRTC_HOST is. Name those"
                " where clients reach the socket in ANTIPHON_WEBRTC_ADDRESSES"
            )
        return self

    @property
    def webrtc_reachable_at(self) -> list[str]:
        """Addresses that clients are told; [] = those of the socket's interfaces."""
        version = ipaddress.ip_address(self.webrtc_host).version
        of_node = [address for address in self.webrtc_node_addresses.split(",") if address]
        return self.webrtc_addresses or [each for each in of_node if ipaddress.ip_address(each).version == version]

    @property
    def webrtc_limits(self) -> WebRtcLimits:
        return WebRtcLimits(
            max_calls=self.webrtc_max_calls,
            connect_s=self.webrtc_connect_s,
            networks=tuple(map(ipaddress.ip_network, self.webrtc_candidate_networks)),
        )

    @property
    def webrtc_servers(self) -> IceServers:
        return IceServers(
            stun=_host_and_port(self.webrtc_stun_server),
            turn=_host_and_port(self.webrtc_turn_server),
            turn_username=self.webrtc_turn_username,
            turn_password=self.webrtc_turn_password.get_secret_value(),
        )


def _host_and_port(server: str) -> tuple[str, int] | None:
    host, _, port = server.rpartition(":")
    return (host, int(port)) if server else None
