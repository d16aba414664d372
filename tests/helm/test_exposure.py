"""Nothing outside the cluster reaches a metrics port, because metrics name tenants and need no key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.cells import CELLS
from tests.helm.render import Object, component, containers_of, of_kind, rendered, workloads

cells = pytest.mark.parametrize(("chart", "cell"), CELLS)
ROUTED = ("Redis over TLS, Ingress, checked download", "Sentinel, Gateway API")


def backends(objects: tuple[Object, ...]) -> list[tuple[str, Any]]:
    """Return the Service and port of every backend of an Ingress or a route."""
    found: list[tuple[str, Any]] = []
    for item in of_kind(objects, "Ingress"):
        services = [path["backend"]["service"] for rule in item["spec"]["rules"] for path in rule["http"]["paths"]]
        services += [item["spec"]["defaultBackend"]["service"]] if "defaultBackend" in item["spec"] else []
        for service in services:
            (port,) = service["port"].values()
            found.append((service["name"], port))
    for item in of_kind(objects, "HTTPRoute", "GRPCRoute"):
        found += [(ref["name"], ref["port"]) for rule in item["spec"]["rules"] for ref in rule["backendRefs"]]
    return found


def target(objects: tuple[Object, ...], service: str, port: Any) -> str:
    """Return the name of the container port behind a port of a Service."""
    (found,) = [item for item in of_kind(objects, "Service") if item["metadata"]["name"] == service]
    (entry,) = [entry for entry in found["spec"]["ports"] if port in (entry["name"], entry["port"])]
    return entry["targetPort"]


@cells
def test_no_route_reaches_a_metrics_port(chart: str, cell: str) -> None:
    objects = rendered("helm-4", chart, cell)
    reached = [target(objects, service, port) for service, port in backends(objects)]
    assert set(reached) <= {"http", "grpc"}
    assert bool(reached) == (cell in ROUTED)


@cells
def test_metrics_have_headless_services_only(chart: str, cell: str) -> None:
    # A Service with a cluster IP could become a LoadBalancer or a NodePort.
    objects = rendered("helm-4", chart, cell)
    numbers = {
        port["containerPort"]
        for found in workloads(objects)
        for container in containers_of(found)
        for port in container.get("ports", ())
        if port["name"] == "metrics"
    }
    for found in of_kind(objects, "Service"):
        targets = {entry["targetPort"] for entry in found["spec"]["ports"]}
        if targets & {"metrics", *numbers}:
            assert found["spec"]["clusterIP"] == "None", found["metadata"]["name"]
            assert found["spec"].get("type", "ClusterIP") == "ClusterIP"


@cells
def test_only_prometheus_may_reach_a_metrics_port(chart: str, cell: str) -> None:
    prometheus = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    for policy in of_kind(rendered("helm-4", chart, cell), "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", ()):
            numbers = {port["port"] for port in rule.get("ports", ())}
            reaches_metrics = not numbers or numbers - {8901, 8902, 9000, 6379}
            if reaches_metrics and component(policy) != "thinker-follower":
                assert rule.get("from") == prometheus or from_group(rule), policy["metadata"]["name"]


def from_group(rule: Object) -> bool:
    """Return whether the rule admits the followers of a group, which may reach every port of their leader."""
    peers = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in rule.get("from", ())]
    return bool(peers) and all(labels.get("app.kubernetes.io/component") == "thinker-follower" for labels in peers)
