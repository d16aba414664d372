"""Network policies allow exactly the connections that the code makes, on both ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from services.common.settings_check import settings_class
from tests.helm.cells import SERVICES, STACK
from tests.helm.render import Object, component, container_of, of_kind, rendered, template, workloads
from tests.helm.test_refusals import nested

CODE = Path(__file__).parents[2] / "services"
CELL = "instruct 60 s on H100, KEDA, monitored, from zero"
GROUP_CELL = "thinking 60 s on nodes of two L4, KEDA"
cells = pytest.mark.parametrize("cell", [CELL, GROUP_CELL])
Hop = tuple[str, str, str]


def calls_between_services() -> set[Hop]:
    """Return the connections between services: a service that creates another's gRPC stub, or the fetch of its blobs,
    calls it."""
    found: set[Hop] = set()
    for service in SERVICES:
        for path in (CODE / service).rglob("*.py"):
            stubs = re.findall(r"\b(\w+)_pb2_grpc\.\w+Stub\b|\b(\w+)Blobs\b", path.read_text())
            others = {(stub or blobs).lower() for stub, blobs in stubs}
            found |= {(service, other, "grpc") for other in others if other in SERVICES and other != service}
    return found


def fetching_services() -> set[str]:
    """Return the services that import an HTTP client."""
    clients = re.compile(r"^\s*(?:import|from) (httpx|urllib\.request|requests|aiohttp)\b", re.MULTILINE)
    return {name for name in SERVICES for path in (CODE / name).rglob("*.py") if clients.search(path.read_text())}


def used_hops(cell: str) -> set[Hop]:
    """Return the connections that the code makes.

    In CELL the scaler writes the deletion costs of pods, and a control plane has a PostgreSQL and sends events.
    """
    there = installed(cell)
    every = {(name, peer, peer) for name in there for peer in ("otlp", "dns")}
    every |= {(name, "redis", "redis") for name in there if "redis_url" in settings_class(name).model_fields}
    scraped = {("prometheus", name, "metrics") for name in there}
    outside = {(name, "internet", "web") for name in fetching_services() - {"scaler", "control"} | {"weights"}}
    if cell == CELL:
        outside |= {("control", "internet", "web")}
        outside |= {("scaler", "api server", port) for port in ("web", "api")}
        outside |= {(name, "database", "database") for name in ("control", "control-migrate")}
        outside |= {("control-migrate", "dns", "dns"), ("control-auth", "api server", "any")}
    clients = {("clients", "gateway", "grpc"), ("clients", "gateway", "http")}
    if cell == CELL:
        clients |= {("operators", "control", "admin")}
    # vLLM's workers choose their own ports. A follower finds its leader by name, and nothing calls a follower.
    group: set[Hop] = set()
    if cell == GROUP_CELL:
        ends = ("thinker", "thinker-follower")
        group = {(one, other, "any") for one in ends for other in ends} - {("thinker", "thinker", "any")}
        group |= {("thinker-follower", "dns", "dns")}
    return (
        {hop for hop in calls_between_services() if {hop[0], hop[1]} <= there}
        | group
        | every
        | scraped
        | outside
        | clients
        | {
            ("keda", "scaler", "grpc"),
            ("weights", "dns", "dns"),
            ("redis-auth", "api server", "any"),
        }
    )


def installed(cell: str) -> set[str]:
    found = {component(item) for item in workloads(rendered("helm-4", "antiphon", cell))}
    return found & set(SERVICES)


def policies(cell: str) -> dict[str, Object]:
    found = {component(item): item["spec"] for item in of_kind(rendered("helm-4", "antiphon", cell), "NetworkPolicy")}
    followers = {"thinker-follower"} if cell == GROUP_CELL else set[str]()
    jobs = {"redis-auth", "weights"} | ({"control-auth", "control-migrate"} if cell == CELL else set[str]())
    assert set(found) == {*installed(cell), "redis"} | jobs | followers
    return found


def names_of(rule: Object, side: str) -> str:
    """Return the peer of a rule: a component, or something outside the stack."""
    if side not in rule:
        if "ports" not in rule:
            return "api server"
        return {8901: "clients", 9000: "clients", 4317: "otlp", 443: "api server", 5432: "database"}[
            rule["ports"][0]["port"]
        ]
    (peer,) = rule[side]
    if "ipBlock" in peer:
        return "internet"
    if "podSelector" in peer:
        labels = peer["podSelector"]["matchLabels"]
        assert labels["app.kubernetes.io/part-of"] == "antiphon"
        assert labels["antiphon/stack"] == "rel"
        return labels["app.kubernetes.io/component"]
    name = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    known = {"keda": "keda", "monitoring": "prometheus", "kube-system": "dns", "operators": "operators"}
    return known[name]


PORTS = {
    0: "any",
    9000: "grpc",
    9090: "metrics",
    8901: "http",
    8902: "admin",
    5432: "database",
    6379: "redis",
    4317: "otlp",
    53: "dns",
    80: "web",
    443: "web",
    6443: "api",
}


def allowed(cell: str, side: str) -> set[Hop]:
    """Return all connections that the policies allow in their `ingress` or `egress`."""
    found: set[Hop] = set()
    for own, policy in policies(cell).items():
        assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
        for rule in policy.get(side, ()):
            for port in rule.get("ports", [{"port": 0}]):
                peer = names_of(rule, "from" if side == "ingress" else "to")
                hop = (peer, own) if side == "ingress" else (own, peer)
                found.add((*hop, PORTS[port["port"]]))
    return found


def test_the_connections_are_found_in_the_code() -> None:
    assert calls_between_services() >= {
        ("gateway", "thinker", "grpc"),
        ("gateway", "control", "grpc"),
        ("thinker", "preprocess", "grpc"),
        ("talker", "thinker", "grpc"),
    }
    assert fetching_services() == {"preprocess", "scaler", "control"}


OUTSIDE = {"clients", "operators", "database", "keda", "prometheus", "internet", "dns", "otlp", "api server"}


def is_there(name: str, cell: str) -> bool:
    """Return whether the cell installs the service; the table of connections lists all services."""
    return name not in SERVICES or name in installed(cell)


@cells
def test_ingress_allows_exactly_the_connections_in_use(cell: str) -> None:
    found = {hop for hop in allowed(cell, "ingress") if is_there(hop[0], cell)}
    assert found == {hop for hop in used_hops(cell) if hop[1] not in OUTSIDE}


@cells
def test_egress_allows_exactly_the_connections_in_use(cell: str) -> None:
    found = {hop for hop in allowed(cell, "egress") if is_there(hop[1], cell)}
    assert found == {hop for hop in used_hops(cell) if hop[0] not in OUTSIDE}


@cells
def test_every_pod_has_exactly_one_policy(cell: str) -> None:
    for found in workloads(rendered("helm-4", "antiphon", cell)):
        labels = found["spec"]["template"]["metadata"]["labels"].items()
        matching = [p for p in policies(cell).values() if p["podSelector"]["matchLabels"].items() <= labels]
        assert len(matching) == 1, found["metadata"]["name"]


@cells
def test_pods_have_the_labels_that_policies_select(cell: str) -> None:
    for found in workloads(rendered("helm-4", "antiphon", cell)):
        labels = found["spec"]["template"]["metadata"]["labels"]
        assert labels["app.kubernetes.io/component"] == component(found)
        assert labels["antiphon/stack"] == "rel"


@pytest.mark.parametrize(
    ("cell", "ports"),
    [
        ("Sentinel, Gateway API", {6379, 26379}),
        ("Redis Cluster over TLS, tenants", {6379, 6380}),
        ("a Redis URL in a Secret, placed pods", {6380}),
    ],
)
def test_every_named_port_of_an_external_redis_is_reachable(cell: str, ports: set[int]) -> None:
    found = of_kind(rendered("helm-4", "antiphon", cell), "NetworkPolicy")
    services = [policy for policy in found if component(policy) in STACK]
    assert len(services) == len(STACK)
    for policy in services:
        out = [{port["port"] for port in rule["ports"]} for rule in policy["spec"]["egress"]]
        assert ports in out


def test_the_stacks_own_redis_is_reached_by_its_pods_port() -> None:
    # The user chooses the Service's port, but a policy sees the pod's port.
    values = nested("global.redis.port", 6400)
    ended = template("helm-4", "antiphon", values)
    objects = tuple(item for item in yaml.load_all(ended.stdout, yaml.CSafeLoader) if item)
    (redis,) = [item for item in of_kind(objects, "NetworkPolicy") if component(item) == "redis"]
    numbers = {port["port"] for rule in redis["spec"]["ingress"] for port in rule["ports"]}
    (pod,) = [item for item in workloads(objects, "Deployment") if component(item) == "redis"]
    assert numbers == {port["containerPort"] for port in container_of(pod)["ports"]}
    (service,) = [item for item in of_kind(objects, "Service") if component(item) == "redis"]
    assert [port["port"] for port in service["spec"]["ports"]] == [6400]


def fetched_from(**preprocess: object) -> dict[str, set[int]]:
    """Return CIDR → ports that preprocess may send to outside the stack."""
    ended = template("helm-4", "preprocess", preprocess)
    assert ended.returncode == 0, ended.stderr
    objects = tuple(item for item in yaml.load_all(ended.stdout, yaml.CSafeLoader) if item)
    (policy,) = [item for item in of_kind(objects, "NetworkPolicy") if component(item) == "preprocess"]
    return {
        peer["ipBlock"]["cidr"]: {port["port"] for port in rule["ports"]}
        for rule in policy["spec"]["egress"]
        for peer in rule.get("to", ())
        if "ipBlock" in peer
    }


def test_preprocess_may_reach_what_its_settings_let_it_fetch_from() -> None:
    assert fetched_from() == {"0.0.0.0/0": {80, 443}}
    assert fetched_from(fetch={"enabled": False}) == {}
    assert fetched_from(settings={"fetch_ports": "[]"}) == {}
    given = {"fetch_ports": "[443, 9000]", "fetch_networks": '["10.1.0.0/16", "10.2.0.5", "fd00::5"]'}
    ports = {443, 9000}
    assert fetched_from(settings=given) == dict.fromkeys(
        ("0.0.0.0/0", "10.1.0.0/16", "10.2.0.5/32", "fd00::5/128"), ports
    )


@pytest.mark.parametrize("name", ["preprocess", "weights"])
def test_internet_access_excludes_private_ranges(name: str) -> None:
    (block,) = [
        peer["ipBlock"] for rule in policies(CELL)[name]["egress"] for peer in rule.get("to", ()) if "ipBlock" in peer
    ]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"} <= set(block["except"])
