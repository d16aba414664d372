"""A client's SDP offer: what of it is served, and which of its candidates are tried. Pure: no socket."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from services.common.addresses import Network, is_allowed
from services.common.errors import BadInput

MAX_OFFER_BYTES = 64 * 1024
_MAX_LINES = 1000
# A browser has one for each of its addresses, and few more.
_MAX_CANDIDATES = 16
# Below are the ports of services; clients and relays use none of them.
_LEAST_PORT = 1024
_TYPES = ("host", "srflx", "relay")


@dataclass(frozen=True, slots=True)
class Offer:
    """`sdp` has no candidate but those that may be tried. `has_events`: it asks for data channels."""

    sdp: str
    has_events: bool


def offer_from(text: str, networks: Collection[Network]) -> Offer:
    """Return what may be answered. `networks`: of candidates that are tried though they are not public. Raise BadInput
    where it is no offer of one audio and at most one set of data channels.

    Candidates that may not be tried are left out: the client may connect all the same, as the gateway answers from
    where the client's checks come. So are names (`.local`), which nothing here looks up. Nor does the offer end its
    candidates, as others may still be found that way.
    """
    lines = text.splitlines()
    if not lines or lines[0] != "v=0" or len(lines) > _MAX_LINES:
        raise _invalid("Send the SDP of an RTCPeerConnection's offer.")
    kinds = [line[2:].partition(" ")[0] for line in lines if line.startswith("m=")]
    if kinds.count("audio") != 1 or kinds.count("application") > 1 or set(kinds) - {"audio", "application"}:
        raise _invalid("Offer one audio track and at most one set of data channels, and nothing else.")
    kept: list[str] = []
    candidates = 0
    for line in lines:
        if line.startswith("a=candidate:"):
            if candidates == _MAX_CANDIDATES or not may_be_tried(line.removeprefix("a=candidate:"), networks):
                continue
            candidates += 1
        elif line == "a=end-of-candidates":
            continue
        kept.append(line)
    return Offer("\r\n".join([*kept, ""]), "application" in kinds)


def may_be_tried(candidate: str, networks: Collection[Network]) -> bool:
    """Whether packets may be sent to a candidate that a client names. `candidate`: an SDP attribute's value."""
    parts = candidate.split()
    if len(parts) < 8 or parts[2].lower() != "udp" or parts[6] != "typ" or parts[7] not in _TYPES:
        return False
    try:
        address, port = ipaddress.ip_address(parts[4]), int(parts[5])
    except ValueError:  # a name, too
        return False
    return _LEAST_PORT <= port <= 65535 and is_allowed(address, networks)


def _invalid(what: str) -> BadInput:
    return BadInput(f"Invalid 'sdp': the offer can't be answered. {what}", param="sdp", code="invalid_sdp")
