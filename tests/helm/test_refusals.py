"""Invalid values. Each is refused with a message that names the value."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.cells import sized
from tests.helm.render import VERSIONS, refusal, template


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


# What is wrong → the values, and what the message must name (both versions' forms of a path, where they differ).
BROKEN: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown service": (nested("singer.replicas", 2), ("singer",)),
    "an unknown value of a service": (nested("thinker.replica", 2), ("replica",)),
    "an unknown shared value": (nested("global.modell", "x"), ("modell",)),
    "an unknown nested value": (nested("global.redis.tls.enable", True), ("tls", "enable")),
    "text for a number": (nested("talker.slots", "many"), ("slots",)),
    "a negative number": (nested("gateway.replicas", -1), ("replicas",)),
    "an invalid port": (nested("global.redis.port", 70000), ("port",)),
    "an unknown model": (nested("global.sizing.model", "instruckt"), ("model",)),
    "a video length without a measurement": (nested("global.sizing.video_s", 45), ("video_s",)),
    "a video for the captioner": (
        nested("global.sizing", {"model": "captioner", "video_s": 60}),
        ("global.sizing.video_s", "60"),
    ),
    "an unknown GPU": (nested("global.sizing.gpu", "h100"), ("global.sizing.gpu", "h100-80gb")),
    "a thinker on a MIG slice": (
        nested("global.sizing.gpu", "h100-80gb-mig-1g.20gb"),
        ("global.sizing", "68.74 GiB", "h100-80gb", "not a measurement"),
    ),
    "too few GPUs a node": (
        nested("global.sizing", {"gpu": "l4-24gb", "video_s": 120, "gpusPerNode": 4}),
        ("global.sizing.gpusPerNode", "131.65", "8 × l4-24gb", "global.sizing.maxNodes allows 1, and 2 such nodes"),
    ),
    "more nodes than allowed": (
        nested("global.sizing", {"gpu": "l4-24gb", "video_s": 120, "gpusPerNode": 1, "maxNodes": 4}),
        ("global.sizing.gpusPerNode", "global.sizing.maxNodes allows 4, and 8 such nodes"),
    ),
    "more GPUs of a node than it has": (
        merged(nested("global.sizing.gpusPerNode", 2), nested("thinker.tensorParallel", 4)),
        ("thinker.tensorParallel", "global.sizing.gpusPerNode, 2"),
    ),
    "parts of a group that do not fill it": (
        merged(
            nested("global.sizing", {"gpu": "l4-24gb", "gpusPerNode": 2, "maxNodes": 2}),
            nested("thinker.group.subGroupSize", 3),
        ),
        ("thinker.group.subGroupSize", "2 nodes"),
    ),
    "a topology without a group size": (
        merged(
            nested("global.sizing", {"gpu": "l4-24gb", "gpusPerNode": 2, "maxNodes": 2}),
            nested("thinker.group.subGroupTopology", "rack"),
        ),
        ("thinker.group.subGroupSize", "rack"),
    ),
    "nodes by a setting": (nested("thinker.settings.nodes", 2), ("thinker.settings.nodes",)),
    "too few GPUs for the thinker": (
        merged(nested("global.sizing", {"video_s": 60}), nested("thinker.tensorParallel", 1)),
        ("thinker.tensorParallel", "95.76", "at least 2"),
    ),
    "a number of GPUs that does not divide the heads": (nested("thinker.tensorParallel", 3), ("tensorParallel",)),
    "a talker on too small a slice": (
        nested("global.sizing.talkerGpu", "h100-80gb-mig-1g.10gb"),
        ("global.sizing.talkerGpu", "8.25 GiB", "nearest", "the talker's own memory plan"),
    ),
    "tenants and anonymous access": (
        nested("gateway.apiKey", {"allowAnonymous": True, "tenantsSecret": {"name": "tenants"}}),
        ("gateway.apiKey.allowAnonymous", "apiKey.tenantsSecret.name"),
    ),
    "tenants' keys in plain values": (
        nested("gateway.settings.tenant_keys", "{}"),
        ("gateway.settings.tenant_keys",),
    ),
    "a gateway without a key": (nested("gateway.apiKey.secret.name", ""), ("gateway.apiKey.secret.name",)),
    "a key and anonymous access": (
        nested("gateway.apiKey", {"allowAnonymous": True, "secret": {"name": "mine"}}),
        ("gateway.apiKey.allowAnonymous",),
    ),
    "from zero without KEDA": (
        nested("thinker.autoscaling", {"type": "hpa", "minReplicas": 0}),
        ("thinker.autoscaling.minReplicas",),
    ),
    "from zero without a cold start time": (
        nested("thinker.autoscaling", {"type": "keda", "minReplicas": 0}),
        ("global.cold_start_s", "thinker.autoscaling.minReplicas"),
    ),
    "a minimum above the maximum": (
        nested("talker.autoscaling", {"type": "keda", "minReplicas": 9, "maxReplicas": 2}),
        ("talker.autoscaling.minReplicas",),
    ),
    "a utilization over one": (nested("talker.autoscaling.targetUtilization", "1.5"), ("targetUtilization",)),
    "a setting that the service refuses": (nested("gateway.settings.max_waiting", 0), ("settings", "max_waiting", "1")),
    "a fraction for a whole number": (nested("gateway.settings.max_waiting", 1.5), ("max_waiting",)),
    "an unknown setting": (nested("talker.settings.max_frame", 100), ("max_frame",)),
    "a setting that another service has": (nested("gateway.settings.max_frames", 100), ("max_frames",)),
    "a setting that the chart sets": (nested("thinker.settings.slots", 4), ("thinker.settings.slots",)),
    "a setting in the environment": (
        nested("gateway.env", [{"name": "ANTIPHON_MAX_WAITING", "value": "1"}]),
        ("gateway.env", "ANTIPHON_MAX_WAITING"),
    ),
    "TLS to the stack's own Redis": (nested("global.redis.tls.enabled", True), ("global.redis.tls.enabled",)),
    "a host and sentinels": (
        nested("global.redis", {"host": "a", "sentinel": {"master": "m", "nodes": ["s:26379"]}}),
        ("global.redis.host",),
    ),
    "sentinels without a master": (
        nested("global.redis.sentinel.nodes", ["s:26379"]),
        ("global.redis.sentinel.master",),
    ),
    "a cluster and sentinels": (
        nested("global.redis", {"cluster": {"nodes": ["c:6379"]}, "sentinel": {"master": "m", "nodes": ["s:26379"]}}),
        ("global.redis.cluster.nodes",),
    ),
    "another database of a cluster": (
        nested("global.redis", {"cluster": {"nodes": ["c:6379"]}, "database": 2}),
        ("global.redis.database", "2"),
    ),
    "a cluster's node without a port": (nested("global.redis.cluster.nodes", ["c"]), ("cluster", "nodes")),
    "a URL and a host": (
        nested("global.redis", {"host": "a", "urlSecret": {"name": "u"}}),
        ("global.redis.urlSecret",),
    ),
    "a URL with a port outside the policies": (
        nested("global.redis.urlSecret.name", "u"),
        ("global.networkPolicy.redisPorts", "global.redis.urlSecret"),
    ),
    "a Redis password in plain values": (
        nested("gateway.settings.redis_password", "x"),
        ("gateway.settings.redis_password",),
    ),
    "a mirror with a scheme": (nested("global.image.mirror", "https://registry.example"), ("mirror",)),
    "another image without its command": (
        nested("global.weights.download.image", "x"),
        ("global.weights.download.command",),
    ),
    "another source without checksums": (
        nested("global.weights.download.command", "true"),
        ("global.weights.download.checksums",),
    ),
    "a third hub": (nested("global.weights.download.source", "elsewhere"), ("source",)),
    "a hub and a command": (
        nested("global.weights.download", {"source": "modelscope", "command": "true", "checksums": "x"}),
        ("global.weights.download.command",),
    ),
    "two kinds of route": (
        nested("gateway", {"ingress": {"enabled": True, "host": "a.example"}, "httpRoute": {"enabled": True}}),
        ("gateway.httpRoute.enabled",),
    ),
    "an Ingress without a host": (nested("gateway.ingress.enabled", True), ("gateway.ingress.host",)),
    "an HTTP port that is gRPC's": (nested("gateway.port", 9000), ("gateway.port", "9000")),
    "a rollout that cannot move": (
        nested("thinker.rollout", {"maxSurge": 0, "maxUnavailable": 0}),
        ("thinker.rollout",),
    ),
    "an invalid share of groups": (
        merged(
            sized("thinking", 60, "l4-24gb", nodes=(2, 4)),
            nested("thinker", {"replicas": 3, "rollout": {"maxSurge": 0, "maxUnavailable": "30%"}}),
        ),
        ("thinker.rollout.maxUnavailable", "30% of 3"),
    ),
    "a runbook base that is not a URL": (nested("alerts.runbookUrl", "docs/runbook.md"), ("runbookUrl",)),
    "half a memory unit": (nested("talker.resources.memory", "24GB"), ("memory",)),
    "a fraction over one": (nested("talker.memoryFraction", "1.2"), ("memoryFraction",)),
    "a name that DNS refuses": (nested("global.stack", "My_Stack"), ("stack",)),
}


def test_there_are_twenty_or_more() -> None:
    assert len(BROKEN) >= 20


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", BROKEN)
def test_it_is_refused_by_name(version: str, what: str) -> None:
    values, named = BROKEN[what]
    told = refusal(template(version, "antiphon", values))
    for name in named:
        assert any(name in line for line in told), told
    assert len(told) == len(set(told)), "it is told once"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_talker_alone_says_that_a_model_has_none(version: str) -> None:
    ended = template(version, "talker", nested("global.sizing.model", "thinking"))
    assert ended.returncode != 0
    assert "global.sizing.model: thinking has no talker" in ended.stderr
