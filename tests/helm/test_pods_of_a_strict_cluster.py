"""Every pod runs on a cluster with a private registry, and on one that assigns user ids."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.helm.cells import UMBRELLA, Values
from tests.helm.render import VERSIONS, Object, component, containers_of, pod_of, rendered, template, workloads
from tests.helm.test_refusals import merged

CELL = "OpenShift, mirrored images, a measured Redis"
JOBS = {"redis-auth", "control-auth", "control-migrate", "weights"}
PODS = {"gateway", "preprocess", "thinker", "talker", "scaler", "control", "redis", *JOBS}
IDS = {"runAsUser", "runAsGroup", "fsGroup"}


def pods(version: str = "helm-4", chart: str = "antiphon", values: Values | None = None) -> dict[str, Object]:
    """Return the workload of each component."""
    if values is None:
        return {component(found): found for found in workloads(rendered(version, chart, CELL))}
    ended = template(version, chart, values)
    assert ended.returncode == 0, ended.stderr
    objects = tuple(item for item in yaml.load_all(ended.stdout, yaml.CSafeLoader) if item)
    return {component(found): found for found in workloads(objects)}


def contexts(found: Object) -> list[dict[str, Any]]:
    """Return the security contexts of the pod and of each container."""
    return [part.get("securityContext", {}) for part in (pod_of(found), *containers_of(found))]


@pytest.mark.parametrize("version", VERSIONS)
def test_no_pod_fixes_an_id_where_the_values_remove_them(version: str) -> None:
    found = pods(version)
    assert set(found) == PODS
    for workload in found.values():
        for context in contexts(workload):
            assert not IDS & set(context)
            assert context["runAsNonRoot"] is True
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_every_service_container_sets_a_user_name() -> None:
    for name, found in pods().items():
        if name not in {"redis", *JOBS}:
            environ = {entry["name"]: entry.get("value") for entry in containers_of(found)[0]["env"]}
            assert environ["USER"], "torch asks for it"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_services_value_overrides_the_shared_one(version: str) -> None:
    values: Values = {
        "global": {
            "podSecurityContext": {"runAsUser": 7, "fsGroup": None},
            "containerSecurityContext": {"runAsUser": 7},
        },
        "thinker": {"podSecurityContext": {"runAsUser": 8, "fsGroup": 9, "supplementalGroups": [44]}},
        "talker": {"containerSecurityContext": {"runAsUser": None, "readOnlyRootFilesystem": False}},
        "redis": {"podSecurityContext": {"runAsUser": 999}},
    }
    found = pods(version, values=values)
    thinker, talker, redis, weights = (contexts(found[name]) for name in ("thinker", "talker", "redis", "weights"))
    assert thinker[0] | {"runAsUser": 8, "fsGroup": 9, "supplementalGroups": [44]} == thinker[0]
    assert thinker[1]["runAsUser"] == 7
    assert (talker[0]["runAsUser"], "fsGroup" in talker[0]) == (7, False)
    assert "runAsUser" not in talker[1]
    assert talker[1]["readOnlyRootFilesystem"] is False
    assert redis[0]["runAsUser"] == 999
    assert weights[0]["runAsUser"] == weights[1]["runAsUser"] == 7


@pytest.mark.parametrize("version", VERSIONS)
def test_a_security_context_can_be_emptied(version: str) -> None:
    fields = {field for context in contexts(pods(version, values={})["thinker"]) for field in context}
    nothing = dict.fromkeys(sorted(fields))
    found = pods(version, values={"global": {"podSecurityContext": nothing, "containerSecurityContext": nothing}})
    for workload in found.values():
        assert not any(contexts(workload)), component(workload)
        assert "securityContext" not in pod_of(workload)


def test_a_chart_installed_alone_accepts_null() -> None:
    values: Values = {"podSecurityContext": dict.fromkeys(sorted(IDS)), "containerSecurityContext": {"runAsUser": None}}
    for version in VERSIONS:
        pod, container, *_ = contexts(pods(version, "gateway", values)["gateway"])
        assert not IDS & set(pod)
        assert "runAsUser" not in container


def test_every_image_comes_from_the_private_registry_with_its_pull_secret() -> None:
    for name, found in pods().items():
        assert pod_of(found)["imagePullSecrets"] == [{"name": "regcred"}], name
        for container in containers_of(found):
            assert container["image"].startswith("registry.example/"), name


def test_a_services_own_image_is_used_everywhere() -> None:
    images = {name: {container["image"] for container in containers_of(found)} for name, found in pods().items()}
    assert images["weights"] == images["preprocess"] == {UMBRELLA[CELL]["preprocess"]["image"]}
    assert images["redis-auth"] == images["gateway"] == {UMBRELLA[CELL]["gateway"]["image"]}
    alone = pods("helm-4", "preprocess", {"image": "registry.example/mine:1"})
    assert containers_of(alone["weights"])[0]["image"] == "registry.example/mine:1"


@pytest.mark.parametrize(
    ("given", "image"),
    [
        ("valkey/valkey:9", "mirror.example/valkey/valkey:9"),
        ("valkey:9", "mirror.example/valkey:9"),
        ("quay.io/valkey/valkey:9", "quay.io/valkey/valkey:9"),
        ("localhost/valkey:9", "localhost/valkey:9"),
        ("registry:5000/valkey:9", "registry:5000/valkey:9"),
    ],
)
def test_an_image_with_a_registry_is_unchanged(given: str, image: str) -> None:
    values = merged({"global": {"image": {"mirror": "mirror.example"}}}, {"redis": {"image": given}})
    assert containers_of(pods(values=values)["redis"])[0]["image"] == image


def test_third_party_images_are_pinned_by_digest() -> None:
    redis = pods(values={"redis": {"exporter": {"enabled": True}}})["redis"]
    images = [container["image"] for container in containers_of(redis)]
    assert len(images) == 2
    assert all(image.startswith("docker.io/") and len(image.partition("@sha256:")[2]) == 64 for image in images)
