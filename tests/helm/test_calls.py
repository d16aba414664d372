"""Calls over WebRTC: a UDP port of each pod, and who may send to it."""

from __future__ import annotations

import pytest

from services.common.settings import SettingsError
from tests.helm.cells import Values
from tests.helm.render import container_of, of_kind, rendered, template
from tests.helm.test_control import entry, objects_of, one
from tests.helm.test_environment import SECRET, load
from tests.helm.test_refusals import nested

HOST_PORT = 30_478
SERVED: Values = {"webrtc": {"enabled": True}}
ON_NODES: Values = {"webrtc": {"enabled": True, "hostPort": HOST_PORT}}


def test_without_calls_no_udp_port_is_open() -> None:
    objects = rendered("helm-4", "antiphon", "as it is")
    gateway = one(objects, "Deployment", "gateway")
    assert all(port.get("protocol", "TCP") == "TCP" for port in container_of(gateway)["ports"])
    assert not [each for each in container_of(gateway)["env"] if "WEBRTC" in each["name"]]


def test_clients_reach_a_pod_by_its_nodes_port(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = objects_of(ON_NODES, "gateway")
    gateway = one(objects, "Deployment", "gateway")
    port = {"name": "webrtc", "containerPort": 8903, "protocol": "UDP", "hostPort": HOST_PORT}
    assert port in container_of(gateway)["ports"]
    names = [each["name"] for each in container_of(gateway)["env"]]
    assert names.index("NODE_IPS") < names.index("ANTIPHON_WEBRTC_NODE_ADDRESSES")
    assert entry(gateway, "NODE_IPS")["valueFrom"] == {"fieldRef": {"fieldPath": "status.hostIPs"}}
    settings = load(monkeypatch, "gateway", gateway, {"status.hostIPs": "10.0.0.7"})
    assert (settings.webrtc, settings.webrtc_port, settings.webrtc_public_port) == (True, 8903, HOST_PORT)
    assert settings.webrtc_reachable_at == ["10.0.0.7"]


@pytest.mark.parametrize("node", ["fd00::7,10.0.0.7", "10.0.0.7,fd00::7"])
@pytest.mark.parametrize(("family", "address"), [("IPv4", "10.0.0.7"), ("IPv6", "fd00::7")])
def test_of_a_node_with_two_families_a_pod_tells_the_address_of_its_socket(
    monkeypatch: pytest.MonkeyPatch, node: str, family: str, address: str
) -> None:
    values: Values = {**ON_NODES, "global": {"network": {"ipFamily": family}}}
    gateway = one(objects_of(values, "gateway"), "Deployment", "gateway")
    settings = load(monkeypatch, "gateway", gateway, {"status.hostIPs": node})
    assert settings.webrtc_reachable_at == [address]


def test_a_node_without_the_sockets_family_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = one(objects_of(ON_NODES, "gateway"), "Deployment", "gateway")
    with pytest.raises(SettingsError, match="ANTIPHON_WEBRTC_NODE_ADDRESSES has no IPv4 address"):
        load(monkeypatch, "gateway", gateway, {"status.hostIPs": "fd00::7"})


def test_addresses_and_ice_servers_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = {"server": "turn.example:3478", "secret": {"name": "turn"}}
    named = {"addresses": ["203.0.113.7"], "hostPort": HOST_PORT, "stunServer": "stun.example:19302", "turn": turn}
    objects = objects_of({"webrtc": {"enabled": True, **named}}, "gateway")
    settings = load(monkeypatch, "gateway", one(objects, "Deployment", "gateway"))
    assert settings.webrtc_reachable_at == ["203.0.113.7"]
    servers = settings.webrtc_servers
    assert servers.stun == ("stun.example", 19302)
    assert (servers.turn, servers.turn_username, servers.turn_password) == (("turn.example", 3478), SECRET, SECRET)


def test_the_policy_lets_anybody_call_and_calls_go_to_the_internet_alone() -> None:
    (policy,) = [
        each
        for each in of_kind(objects_of(SERVED, "gateway"), "NetworkPolicy")
        if each["metadata"]["name"].endswith("gateway")
    ]
    udp = {"port": 8903, "protocol": "UDP"}
    assert {"ports": [udp]} in policy["spec"]["ingress"]
    (out,) = [rule for rule in policy["spec"]["egress"] if "endPort" in rule["ports"][0]]
    assert out["ports"] == [{"port": 1024, "endPort": 65_535, "protocol": "UDP"}]
    assert "169.254.0.0/16" in out["to"][0]["ipBlock"]["except"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (nested("webrtc.hostPort", HOST_PORT), "webrtc.enabled"),
        ({"webrtc": {"enabled": True, "turn": {"server": "turn.example:3478"}}}, "webrtc.turn.secret.name"),
        (nested("webrtc.stunServer", "stun.example:19302"), "webrtc.enabled"),
        ({**SERVED, "settings": {"webrtc_port": "1"}}, "settings.webrtc_port"),
        ({**SERVED, "settings": {"webrtc_stun_server": "a:1"}}, "settings.webrtc_stun_server"),
    ],
)
def test_what_contradicts_itself_is_refused(values: Values, problem: str) -> None:
    ended = template("helm-4", "gateway", values)
    assert ended.returncode
    assert problem in ended.stderr
