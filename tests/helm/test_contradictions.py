"""Values that are each valid but contradict each other. Helm refuses them by name, before Kubernetes would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.common.settings import WorkerSettings
from services.gateway.settings import GatewaySettings
from services.preprocess.memory import AT_REST_BYTES, LEAST_BYTES
from services.preprocess.settings import PreprocessSettings
from tests.helm.cells import UMBRELLA, Values, sized
from tests.helm.render import HELM, VERSIONS, helm, refusal, template
from tests.helm.test_refusals import merged, nested

_CACHES = sum(PreprocessSettings.model_fields[name].default for name in ("feature_bytes", "sound_bytes"))
LEAST_MIB = (AT_REST_BYTES + _CACHES + LEAST_BYTES) >> 20
ROUTE = merged(nested("gateway.httpRoute.enabled", True), nested("gateway.httpRoute.parentRefs", [{"name": "edge"}]))
LONGEST_SESSION_S = round(GatewaySettings.model_fields["realtime_max_session_s"].default)

# What is wrong → the values, and what the message must name.
BY_TEMPLATES: dict[str, tuple[Values, tuple[str, ...]]] = {
    "KEDA without the scaler": (
        merged(nested("scaler.enabled", False), nested("talker.autoscaling.type", "keda")),
        ("scaler.enabled", "talker.autoscaling.type", "global.scaler.address"),
    ),
    "an HPA without this release's scaler": (
        merged(
            nested("scaler.enabled", False),
            nested("thinker.autoscaling.type", "hpa"),
            nested("global.scaler.address", "other-scaler.speech:9000"),
        ),
        ("scaler.enabled", "thinker.autoscaling.type hpa"),
    ),
    "a request longer than the gateway's drain": (
        nested("gateway.settings.request_timeout_s", 900),
        ("gateway.settings.request_timeout_s", "900", "gateway.drain_s", "600"),
    ),
    "a drain that ends before the hand-over": (nested("talker.drain_s", 5), ("talker.drain_s", "5 s after SIGTERM")),
    "a hand-over after the drain": (
        nested("preprocess.settings.hand_over_after_s", "90"),
        ("preprocess.drain_s", "90 s after SIGTERM", "preprocess.settings.hand_over_after_s"),
    ),
    "memory that the caches of preprocess fill": (
        nested("preprocess.resources.memory", "6Gi"),
        ("preprocess.resources.memory", "6Gi", f"{LEAST_MIB} MiB", "preprocess.settings.feature_bytes"),
    ),
    "memory that the requests of preprocess exceed": (
        nested("preprocess.settings.memory_bytes", 8 << 30),
        ("preprocess.resources.memory", "12Gi", "14592 MiB", "memory_bytes"),
    ),
    "a route that ends realtime sessions": (
        merged(ROUTE, nested("gateway.settings.realtime_max_session_s", 7200)),
        ("gateway.streamTimeout_s", "3660 s", "7200 s", "gateway.settings.realtime_max_session_s"),
    ),
    "a route that ends sessions of the default length": (
        merged(ROUTE, nested("gateway.streamTimeout_s", LONGEST_SESSION_S)),
        ("gateway.streamTimeout_s", f"{LONGEST_SESSION_S} s"),
    ),
    "an object store without a control plane": (
        nested("gateway.objectStore.url", "s3://bucket"),
        ("gateway.objectStore.url", "control.enabled"),
    ),
    "credentials of no object store": (
        nested("gateway.objectStore.secret.name", "store"),
        ("gateway.objectStore.url", "objectStore.secret.name"),
    ),
    "two object stores": (
        nested("gateway.objectStore", {"url": "s3://bucket", "claim": "objects"}),
        ("gateway.objectStore.claim", "objectStore.url"),
    ),
    "a cold start longer than a request": (nested("global.cold_start_s", 700), ("global.cold_start_s", "700", "600")),
    "a Thinking checkpoint at Instruct's sizes": (
        nested("global.model.repository", "Qwen/Qwen3-Omni-30B-A3B-Thinking"),
        ("global.model.repository", "thinking", "global.sizing.model"),
    ),
    "a model length that does not fit the KV cache": (
        nested("global.model.maxModelLen", 131072),
        ("global.model.maxModelLen", "131072", "1 × h100-80gb"),
    ),
    "slots that do not fit the KV cache": (nested("thinker.slots", 512), ("thinker.slots", "512", "1024 tokens")),
    "streams that do not fit the talker's slice": (
        merged(sized("instruct", 60, "h100-80gb", "h100-80gb-mig-1g.20gb"), nested("talker.slots", 4096)),
        ("talker.slots", "4096", "h100-80gb-mig-1g.20gb"),
    ),
    "a claim smaller than the weights": (
        nested("global.weights.claim.size", "60Gi"),
        ("global.weights.claim.size", "60Gi", "68Gi"),
    ),
    "null for a number": (nested("thinker.slots", None), ("thinker.slots", "null")),
    "a map that --reuse-values left out": (
        nested("global.network", None),
        ("global.network.", "--reset-then-reuse-values"),
    ),
    "a map of a service that --reuse-values left out": (nested("gateway.service", None), ("gateway.service.", "null")),
    "null for a shared number": (nested("global.redis.port", None), ("global.redis.port", "null")),
    "null for a map": (nested("gateway.autoscaling", None), ("gateway.autoscaling", "null")),
    "two services of one name": (
        {"thinker": {"fullnameOverride": "mine"}, "talker": {"fullnameOverride": "mine"}},
        ("thinker.fullnameOverride", "talker"),
    ),
    "a service with another's name": (nested("talker.fullnameOverride", "rel-thinker"), ("fullnameOverride",)),
    "a variable that the chart sets": (
        nested("gateway.env", [{"name": "HOME", "value": "/x"}]),
        ("gateway.env", "HOME"),
    ),
    "a variable given twice": (
        nested("talker.env", [{"name": "TZ", "value": "UTC"}, {"name": "TZ", "value": "CET"}]),
        ("talker.env", "TZ"),
    ),
    "a pod label that the chart sets": (
        nested("thinker.podLabels", {"app.kubernetes.io/name": "x"}),
        ("thinker.podLabels", "app.kubernetes.io/name"),
    ),
    "a label of dashboards that the chart sets": (
        merged(nested("dashboards.enabled", True), nested("dashboards.labels", {"antiphon/stack": "x"})),
        ("dashboards.labels", "antiphon/stack"),
    ),
    "a label of monitors that the chart sets": (
        nested("global.monitoring.serviceMonitor", {"enabled": True, "labels": {"antiphon/stack": "x"}}),
        ("global.monitoring.serviceMonitor.labels", "antiphon/stack"),
    ),
}
BY_SCHEMAS: dict[str, tuple[Values, tuple[str, ...]]] = {
    "a URL for Redis's host": (nested("global.redis.host", "redis://redis.example"), ("redis", "host")),
    "a port behind Redis's host": (nested("global.redis.host", "redis.example:6379"), ("redis", "host")),
    "a registry with a scheme": (nested("global.image.registry", "https://ghcr.io/antiphon"), ("registry",)),
    "a range without a prefix": (nested("global.networkPolicy.privateRanges", ["10.0.0.0"]), ("privateRanges",)),
    "a peer's range without a prefix": (
        nested("global.networkPolicy.redis", [{"ipBlock": {"cidr": "10.9.0.1"}}]),
        ("networkPolicy", "redis", "cidr"),
    ),
    "an invalid prefix length": (
        nested("global.networkPolicy.clients", [{"ipBlock": {"cidr": "10.0.0.0/33"}}]),
        ("clients", "cidr"),
    ),
    "an unknown kind of peer": (nested("global.networkPolicy.dns", [{"pods": {}}]), ("dns", "pods")),
}


def check(ended: Any, named: tuple[str, ...]) -> None:
    told = refusal(ended)
    for name in named:
        assert any(name in line for line in told), told
    assert sum(named[0] in line for line in told) == 1, told


@pytest.mark.parametrize("what", BY_TEMPLATES)
def test_a_contradiction_is_refused_by_name(what: str) -> None:
    values, named = BY_TEMPLATES[what]
    check(template("helm-4", "antiphon", values), named)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", BY_SCHEMAS)
def test_a_wrong_form_is_refused_by_name(version: str, what: str) -> None:
    values, named = BY_SCHEMAS[what]
    check(template(version, "antiphon", values), named)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_wrong_shared_value_is_reported_once(version: str) -> None:
    check(template(version, "gateway", nested("global.redis.host", "redis://redis.example")), ("host",))


def test_a_packaged_charts_error_has_no_noise(tmp_path: Path) -> None:
    packaged = helm("helm-4", "package", str(HELM / "antiphon"), "--destination", str(tmp_path))
    assert packaged.returncode == 0, packaged.stderr
    (chart,) = tmp_path.glob("antiphon-*.tgz")
    ended = helm("helm-4", "template", "rel", str(chart), values=nested("thinker.slots", 512))
    assert ended.returncode != 0
    told = [line for line in ended.stderr.splitlines() if line]
    assert told[0].startswith("Error: ")
    assert "thinker.slots: 512" in told[0]
    assert len(told) == 2, "beside Helm's own hint at --debug"


def test_a_request_may_be_longer_than_a_workers_drain() -> None:
    # What is left at its end continues on another worker.
    values = nested("gateway", {"settings": {"request_timeout_s": 900}, "drain_s": 900})
    ended = template("helm-4", "antiphon", values)
    assert ended.returncode == 0, ended.stderr


def test_the_hand_over_is_by_default_when_workers_begin_it() -> None:
    (default,) = (WorkerSettings.model_fields["hand_over_after_s"].default,)
    for values in (nested("thinker.drain_s", int(default) + 1), nested("thinker.settings.hand_over_after_s", 0)):
        ended = template("helm-4", "antiphon", values)
        assert ended.returncode == 0, ended.stderr
    check(template("helm-4", "antiphon", nested("thinker.drain_s", int(default))), ("thinker.drain_s",))


def test_a_cache_of_no_bytes_takes_no_memory() -> None:
    sounds = PreprocessSettings.model_fields["sound_bytes"].default >> 20
    small = {"resources": {"memory": f"{LEAST_MIB - sounds}Mi"}, "settings": {"sound_bytes": 0}}
    ended = template("helm-4", "antiphon", nested("preprocess", small))
    assert ended.returncode == 0, ended.stderr


def test_the_longest_request_is_the_gateways_default() -> None:
    (default,) = (GatewaySettings.model_fields["request_timeout_s"].default,)
    ended = template("helm-4", "antiphon", nested("global.cold_start_s", int(default)))
    assert ended.returncode == 0, ended.stderr


GROUP = UMBRELLA["thinking 60 s on nodes of two L4, KEDA"]
OWN_WEIGHTS: Values = nested("global.weights.existingClaim", "weights")


@pytest.mark.parametrize(
    ("length", "values", "named"),
    [
        (47, {}, "-weights-"),
        (48, OWN_WEIGHTS, "-gateway-metrics"),
        (42, GROUP, "-thinker has 50 characters, and Kubernetes takes 49"),
    ],
)
def test_a_name_too_long_is_refused(length: int, values: Values, named: str) -> None:
    told = refusal(template("helm-4", "antiphon", values, release="r" * length))
    assert any("the release's name" in line and named in line for line in told), told


@pytest.mark.parametrize(("length", "values"), [(46, {}), (47, OWN_WEIGHTS), (41, GROUP)])
def test_the_longest_name_is_accepted(length: int, values: Values) -> None:
    ended = template("helm-4", "antiphon", values, release="r" * length)
    assert ended.returncode == 0, ended.stderr
