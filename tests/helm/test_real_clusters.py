"""Needs of real clusters: extra volumes and containers, load balancers, IPv6, canaries, several models."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.helm.cells import Values
from tests.helm.render import NAMESPACE, Object, component, of_kind, pod_of, read_objects, refusal, template, workloads
from tests.helm.test_refusals import merged, nested
from tests.helm.test_schemas import CUSTOM, WITHOUT_SCHEMA, custom_validator, identity, validator

MOUNT = {"name": "proxy-ca", "mountPath": "/etc/proxy-ca", "readOnly": True}
SIDECAR = {"name": "sidecar", "image": "registry.example/sidecar:1"}
ROOMY: Values = {
    "service": {"type": "LoadBalancer", "annotations": {"lb.example/internal": "true"}},
    "extraVolumes": [{"name": "proxy-ca", "configMap": {"name": "proxy-ca"}}],
    "extraVolumeMounts": [MOUNT],
    "extraContainers": [SIDECAR],
    "initContainers": [{"name": "prepare", "image": "registry.example/prepare:1"}],
    "schedulerName": "volcano",
}
WORKER = {key: value for key, value in ROOMY.items() if key != "service"}
TRIGGER = {
    "type": "cron",
    "metadata": {"timezone": "UTC", "start": "0 8 * * *", "end": "0 18 * * *", "desiredReplicas": "2"},
}
TOLERATION = {"key": "infra", "operator": "Exists", "effect": "NoSchedule"}
RELABELING = {"targetLabel": "cluster", "replacement": "eu-1"}
VALUES: Values = {
    "global": {
        "network": {"ipFamily": "IPv6", "ipFamilyPolicy": "SingleStack"},
        "networkPolicy": {
            "dns": [{"ipBlock": {"cidr": "169.254.20.10/32"}}],
            "dnsPorts": [5353],
        },
        "monitoring": {
            "serviceMonitor": {"enabled": True, "relabelings": [RELABELING], "metricRelabelings": [RELABELING]}
        },
        "weights": {
            "download": {
                "nodeSelector": {"pool": "infra"},
                "tolerations": [TOLERATION],
                "schedulerName": "volcano",
                "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
                "resources": {"cpu": "500m", "memory": "2Gi"},
            }
        },
    },
    "gateway": {
        **ROOMY,
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "public"}],
            "hostnames": ["omni.example"],
            "grpcHostnames": ["grpc.omni.example"],
            "weight": 90,
            "extraBackends": [{"name": "next-gateway", "namespace": "next", "weight": 10}],
        },
    },
    "preprocess": WORKER,
    "thinker": {**WORKER, "autoscaling": {"type": "keda", "extraTriggers": [TRIGGER]}},
    "talker": WORKER,
    "scaler": WORKER,
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "extra"}, "data": {"a": "b"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-extra'}\n",
    ],
}
SERVICES = ("gateway", "preprocess", "thinker", "talker", "scaler")


def objects_of(values: Values, release: str = "rel") -> tuple[Object, ...]:
    ended = template("helm-4", "antiphon", values, release)
    assert ended.returncode == 0, ended.stderr
    return read_objects(ended.stdout)


@functools.cache
def roomy() -> tuple[Object, ...]:
    return objects_of(VALUES)


def service_pods() -> dict[str, Object]:
    return {
        component(found): pod_of(found) for found in workloads(roomy(), "Deployment") if component(found) in SERVICES
    }


def test_kubernetes_accepts_objects_with_every_option() -> None:
    for item in roomy():
        if identity(item) in WITHOUT_SCHEMA:
            continue
        check = custom_validator(*identity(item)) if identity(item) in CUSTOM else validator("1.37", *identity(item))
        assert not [error.message for error in check.iter_errors(item)], item["metadata"]["name"]


def test_pods_have_the_users_additions() -> None:
    pods = service_pods()
    assert set(pods) == set(SERVICES)
    for name, pod in pods.items():
        assert [container["name"] for container in pod["containers"]] == [name, "sidecar"]
        assert pod["initContainers"][-1]["name"] == "prepare"
        assert MOUNT in pod["containers"][0]["volumeMounts"]
        assert pod["volumes"][-1] == ROOMY["extraVolumes"][0]
        assert pod["schedulerName"] == "volcano"
    waits = [name for name, pod in pods.items() if pod["initContainers"][0]["name"] == "wait-for-weights"]
    assert waits == [name for name in pods if name in ("preprocess", "thinker", "talker")]


def test_the_gateways_service_can_be_a_load_balancer() -> None:
    services = {found["metadata"]["name"]: found for found in of_kind(roomy(), "Service")}
    assert services["rel-gateway"]["spec"]["type"] == "LoadBalancer"
    assert services["rel-gateway"]["metadata"]["annotations"] == {"lb.example/internal": "true"}
    assert "type" not in services["rel-gateway-metrics"]["spec"]


def test_the_weights_job_is_placed_and_sized() -> None:
    (job,) = [found for found in of_kind(roomy(), "Job") if component(found) == "weights"]
    pod = pod_of(job)
    assert pod["nodeSelector"] == {"pool": "infra"}
    assert pod["tolerations"] == [TOLERATION]
    assert pod["schedulerName"] == "volcano"
    (container,) = pod["containers"]
    assert {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"} in container["env"]
    assert container["resources"] == {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}


def test_servers_listen_on_ipv6_and_advertise_valid_addresses() -> None:
    for name, pod in service_pods().items():
        env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
        assert env["ANTIPHON_GRPC_HOST"] == "[::]"
        assert env["ANTIPHON_METRICS_HOST"] == "::"
        assert env["ANTIPHON_ADVERTISE_HOST"] == "[$(POD_IP)]"
        assert env.get("ANTIPHON_HTTP_HOST") == ("::" if name == "gateway" else None)
    for service in of_kind(roomy(), "Service"):
        if component(service) in SERVICES:
            assert service["spec"]["ipFamilyPolicy"] == "SingleStack"
            assert service["spec"]["ipFamilies"] == ["IPv6"]


def egress(name: str) -> list[Any]:
    policies = {component(found): found["spec"] for found in of_kind(roomy(), "NetworkPolicy")}
    return policies[name]["egress"]


def test_preprocess_reaches_public_ipv4_and_ipv6_only() -> None:
    blocks = [peer["ipBlock"] for rule in egress("preprocess") for peer in rule.get("to", ()) if "ipBlock" in peer]
    ranges = {block["cidr"]: set(block.get("except", ())) for block in blocks}
    assert {"10.0.0.0/8", "169.254.0.0/16"} <= ranges["0.0.0.0/0"]
    assert {"fc00::/7", "fe80::/10", "::/127"} <= ranges["::/0"]
    assert not {one for one in ranges["0.0.0.0/0"] if ":" in one} | {one for one in ranges["::/0"] if ":" not in one}


def test_dns_rules_follow_the_values() -> None:
    for name in SERVICES:
        wanted: Object = {"to": [{"ipBlock": {"cidr": "169.254.20.10/32"}}]}
        wanted["ports"] = [{"port": 5353, "protocol": protocol} for protocol in ("UDP", "TCP")]
        assert wanted in egress(name)


def test_monitors_relabel_by_the_values() -> None:
    for monitor in of_kind(roomy(), "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["relabelings"][-1] == RELABELING
        assert endpoint["metricRelabelings"] == [RELABELING]


def test_keda_gets_extra_triggers() -> None:
    (scaled,) = of_kind(roomy(), "ScaledObject")
    assert [trigger["type"] for trigger in scaled["spec"]["triggers"]] == ["external-push", "cron"]


def test_a_canary_gets_its_share() -> None:
    for kind, ports in (("HTTPRoute", (80, 80)), ("GRPCRoute", (9000, 9000))):
        (route,) = of_kind(roomy(), kind)
        (rule,) = route["spec"]["rules"]
        assert rule["backendRefs"] == [
            {"name": "rel-gateway", "port": ports[0], "weight": 90},
            {"name": "next-gateway", "namespace": "next", "port": ports[1], "weight": 10},
        ]


def test_an_annotation_of_the_user_replaces_the_charts() -> None:
    name = "nginx.ingress.kubernetes.io/proxy-body-size"
    given = {"enabled": True, "host": "omni.example", "annotations": {name: "64m", "example.com/owner": "speech"}}
    (ingress,) = of_kind(objects_of(nested("gateway.ingress", given)), "Ingress")
    annotations = ingress["metadata"]["annotations"]
    assert annotations[name] == "64m"
    assert annotations["example.com/owner"] == "speech"
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"


def test_extra_objects_are_rendered_as_templates() -> None:
    names = {found["metadata"]["name"] for found in of_kind(roomy(), "ConfigMap")}
    assert {"extra", "rel-extra"} <= names


SECOND: Values = {
    "global": {
        "stack": "first",
        "model": {"servedName": "second-model"},
        "redis": {"host": "first-redis", "passwordSecret": {"name": "first-redis-auth"}},
        "scaler": {"address": f"first-scaler.{NAMESPACE}:9000"},
    },
    "gateway": {"enabled": False},
    "scaler": {"enabled": False},
    "thinker": {"autoscaling": {"type": "keda"}},
}
"""A second model behind the gateway of the release `first`."""


def names_of(objects: tuple[Object, ...]) -> set[tuple[str, str]]:
    return {(found["kind"], found["metadata"]["name"]) for found in objects}


@pytest.mark.parametrize(
    "values", [SECOND, {"global": {"stack": "first"}}], ids=["a second model", "a whole second stack"]
)
def test_two_releases_of_one_stack_share_no_object(values: Values) -> None:
    monitored: Values = {
        "global": {"monitoring": {"serviceMonitor": {"enabled": True}}},
        "alerts": {"enabled": True},
        "dashboards": {"enabled": True},
    }
    first, second = objects_of(monitored, "first"), objects_of(merged(monitored, values), "second")
    assert not names_of(first) & names_of(second)


def test_a_second_model_uses_the_first_releases_gateway_redis_and_scaler() -> None:
    first, second = objects_of({}, "first"), objects_of(SECOND, "second")
    assert {component(found) for found in workloads(second, "Deployment")} == {"preprocess", "thinker", "talker"}
    services = {found["metadata"]["name"] for found in of_kind(first, "Service")}
    secret = {found["metadata"]["name"] for found in of_kind(first, "Job")}
    for found in workloads(second, "Deployment"):
        env = {entry["name"]: entry for entry in pod_of(found)["containers"][0]["env"]}
        assert "first-redis:6379" in env["ANTIPHON_REDIS_URL"]["value"]
        assert env["ANTIPHON_SERVED_NAME"]["value"] == "second-model"
    assert "first-redis" in services
    assert "first-redis-auth" in secret, "a job of the first release makes the password"
    (scaled,) = of_kind(second, "ScaledObject")
    assert scaled["spec"]["triggers"][0]["metadata"]["scalerAddress"].split(".")[0] in services
    # Policies let the two reach each other, as they select pods by stack, not by release.
    selectors = [found["spec"] for found in of_kind(first, "NetworkPolicy") if component(found) == "gateway"]
    peers = [peer for rule in selectors[0]["egress"] for peer in rule.get("to", ()) if "podSelector" in peer]
    labels = [found["spec"]["template"]["metadata"]["labels"] for found in workloads(second, "Deployment")]
    for own in labels:
        assert any(peer["podSelector"]["matchLabels"].items() <= own.items() for peer in peers)


BROKEN: dict[str, tuple[Values, tuple[str, ...]]] = {
    "a volume that the chart has": (
        nested("thinker.extraVolumes", [{"name": "cache", "emptyDir": {}}]),
        ("thinker.extraVolumes", "cache"),
    ),
    "a container with the service's name": (
        nested("talker.extraContainers", [{"name": "talker", "image": "x"}]),
        ("talker.extraContainers", "talker"),
    ),
    "triggers without KEDA": (
        nested("talker.autoscaling", {"type": "hpa", "extraTriggers": [TRIGGER]}),
        ("talker.autoscaling.extraTriggers", "hpa"),
    ),
    "a token in the job's environment": (
        nested("global.weights.download.env", [{"name": "HF_TOKEN", "value": "x"}]),
        ("global.weights.download.env", "HF_TOKEN"),
    ),
    "a backend without a weight": (
        nested("gateway.httpRoute.extraBackends", [{"name": "next-gateway"}]),
        ("extraBackends", "weight"),
    ),
    "an unknown family": (nested("global.network.ipFamily", "IPv5"), ("ipFamily",)),
    "an unsupported Service type": (nested("gateway.service.type", "ExternalName"), ("service", "type")),
    "a Service of a worker": (nested("talker.service.type", "LoadBalancer"), ("service",)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_impossible_values_are_refused_by_name(what: str) -> None:
    values, named = BROKEN[what]
    told = refusal(template("helm-4", "antiphon", values))
    for name in named:
        assert any(name in line for line in told), told
