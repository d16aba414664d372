"""Which offers are answered, and which of their candidates are tried."""

from __future__ import annotations

import ipaddress

import pytest

from services.common.errors import BadInput
from services.gateway.realtime.webrtc.offer import may_be_tried, offer_from

HEAD = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"
EVENTS = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"
LAN = (ipaddress.ip_network("10.1.0.0/16"),)


def candidate(address: str, port: int = 50_000, kind: str = "host", protocol: str = "udp") -> str:
    return f"1 1 {protocol} 2130706431 {address} {port} typ {kind} generation 0"


@pytest.mark.parametrize("address", ["203.0.114.9", "8.8.8.8", "2606:4700:4700::1111", "10.1.2.3"])
def test_public_candidates_and_those_that_are_allowed_are_tried(address: str) -> None:
    for kind in ("host", "srflx", "relay"):
        assert may_be_tried(candidate(address, kind=kind), LAN)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.2.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "255.255.255.255", "224.0.0.1", "::1", "fe80::1", "fd00::1", "fec0::1", "::ffff:127.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1", "a-b-c.local", "metadata.google.internal", "2130706433", "",
    ],
)  # fmt: skip
def test_candidates_inside_networks_and_names_are_not_tried(address: str) -> None:
    assert not may_be_tried(candidate(address), LAN)


@pytest.mark.parametrize(
    "text",
    [
        candidate("8.8.8.8", 53), candidate("8.8.8.8", 0), candidate("8.8.8.8", 65_536), candidate("8.8.8.8", -1),
        candidate("8.8.8.8", protocol="tcp"), candidate("8.8.8.8", kind="prflx"), "1 1 udp", "",
    ],
)  # fmt: skip
def test_ports_of_services_and_what_is_no_udp_are_not_tried(text: str) -> None:
    assert not may_be_tried(text, LAN)


def test_an_offer_keeps_what_may_be_tried_and_never_ends_its_candidates() -> None:
    lines = [candidate("192.168.1.1"), candidate("8.8.8.8"), *[candidate("1.1.1.1")] * 40]
    sdp = HEAD + AUDIO + "".join(f"a=candidate:{line}\r\n" for line in lines) + "a=end-of-candidates\r\n"
    offer = offer_from(sdp, LAN)
    assert not offer.has_events
    assert "192.168" not in offer.sdp
    assert "end-of" not in offer.sdp
    assert offer.sdp.count("a=candidate:") == 16
    assert offer_from(HEAD + AUDIO + EVENTS, ()).has_events


@pytest.mark.parametrize(
    "sdp",
    ["", "v=1", HEAD, HEAD + EVENTS, HEAD + AUDIO * 2, HEAD + AUDIO + EVENTS * 2, HEAD + AUDIO + "m=video 9 x 96\r\n",
     HEAD + AUDIO + "a=x\r\n" * 1000],
)  # fmt: skip
def test_what_is_no_offer_of_one_audio_is_refused(sdp: str) -> None:
    with pytest.raises(BadInput) as refused:
        offer_from(sdp, ())
    assert (refused.value.param, refused.value.code) == ("sdp", "invalid_sdp")
