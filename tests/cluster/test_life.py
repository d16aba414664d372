"""The umbrella is installed, upgraded, rolled back and removed, and leaves nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cluster.tools import KEPT, kubectl, names, on_cluster, read, release
from tests.helm.cells import UMBRELLA, Values
from tests.helm.render import RELEASE, VERSIONS, Object

pytestmark = pytest.mark.cluster

UPGRADES = (
    "instruct 60 s on H100, KEDA, monitored, from zero",
    "thinking 60 s on nodes of two L4, KEDA",
    "ModelScope",
    "instruct 15 s on A100 40, HPA",
)
EXPECTED = {
    # There are no images and no GPUs.
    *("Failed", "BackOff", "FailedScheduling", "ProvisioningFailed", "FailedMount", "InspectFailed"),
    # Pods that do not run have no metrics.
    *("FailedGetResourceMetric", "FailedComputeMetricsReplicas", "FailedGetExternalMetric", "KEDAScalerFailed"),
    # KEDA reports this for every ScaledObject.
    "ScaledObjectDeleted",
    # A group's pod may remain for a moment after its owner.
    "CalculateExpectedPodCountFailed",
}
"""Reasons of warnings that are expected."""
NO_HOOKS = "--no-hooks"
"""The hook runs an image that does not exist here. test_server_accepts checks its objects."""
SETTLE_S = 60
NAMESPACES_OWN = {"ConfigMap kube-root-ca.crt", "ServiceAccount default"}


def nowhere(values: Values) -> Values:
    """Return the values with images from a registry that does not exist, so that no container starts."""
    shared: dict[str, Any] = values.get("global", {})
    images: Values = {"redis": {"image": "registry.invalid/valkey"}}
    return values | images | {"global": shared | {"image": {"registry": "registry.invalid/antiphon"}}}


def everything(namespace: str) -> list[Object]:
    """Return all objects of the namespace, except events."""
    ended = kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name")
    kinds = {kind for kind in ended.stdout.split() if not kind.startswith("events") and "metrics.k8s.io" not in kind}
    return read(",".join(sorted(kinds)), f"--namespace={namespace}")


def wait_settled(namespace: str) -> None:
    """Wait until the controllers have made the pods."""
    deadline_s = time.monotonic() + SETTLE_S
    while late := [found["metadata"]["name"] for found in read("deployments", f"-n={namespace}") if not settled(found)]:
        if time.monotonic() > deadline_s:
            pytest.fail(
                f"no pods were made for {', '.join(late)}; events:\n{kubectl('events', '-n', namespace).stdout}"
            )
        time.sleep(0.5)


def settled(deployment: Object) -> bool:
    status = deployment.get("status", {})
    seen = status.get("observedGeneration") == deployment["metadata"]["generation"]
    failed = [item for item in status.get("conditions", ()) if item["type"] == "ReplicaFailure"]
    return seen and not failed and status.get("updatedReplicas", 0) >= min(1, deployment["spec"]["replicas"])


def check_as_rendered(version: str, namespace: str) -> None:
    """Check that the cluster holds what the release's manifest says."""
    rendered = on_cluster(version, "get", "manifest", RELEASE, f"--namespace={namespace}").stdout
    ended = kubectl("diff", "--server-side", "--force-conflicts", f"-n={namespace}", "--filename=-", given=rendered)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def check_events(namespace: str) -> None:
    found = read("events", f"--namespace={namespace}", "--field-selector=type=Warning")
    odd = [item for item in found if item["reason"] not in EXPECTED]
    assert [(item["reason"], item["involvedObject"]["name"], item["message"]) for item in odd] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_install_upgrade_rollback_uninstall(version: str, namespace: str) -> None:
    before = names(everything(namespace))
    release(version, "install", NO_HOOKS, chart="antiphon", values=nowhere({}))
    wait_settled(namespace)
    check_as_rendered(version, namespace)
    installed = names(read("all", f"--namespace={namespace}", "--selector=app.kubernetes.io/part-of=antiphon"))
    assert installed

    for cell in UPGRADES:
        release(version, "upgrade", NO_HOOKS, chart="antiphon", values=nowhere(UMBRELLA[cell]))
        wait_settled(namespace)
        check_as_rendered(version, namespace)

    on_cluster(version, "rollback", RELEASE, "1", f"--namespace={namespace}")
    wait_settled(namespace)
    check_as_rendered(version, namespace)
    check_events(namespace)

    uninstall(version, namespace)
    check_nothing_is_left(namespace, before)
    # A release with the same name adopts the weights' claim.
    release(version, "install", NO_HOOKS, chart="antiphon", values=nowhere({}))
    uninstall(version, namespace)
    check_nothing_is_left(namespace, before)


def uninstall(version: str, namespace: str) -> None:
    on_cluster(version, "uninstall", RELEASE, f"--namespace={namespace}", "--wait", "--timeout=50s")


def check_nothing_is_left(namespace: str, before: set[str]) -> None:
    """Check that only the weights' claim is left. Controllers and garbage collection take a moment."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        left = names(everything(namespace)) - before - NAMESPACES_OWN
        if left == {f"{KEPT} {RELEASE}-weights"}:
            return
        if time.monotonic() > deadline_s:
            pytest.fail(f"left behind: {', '.join(sorted(left))}")
        time.sleep(0.5)
