"""The cluster of KUBECONFIG, with a test namespace at the strictest level of pod security."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.cluster.tools import kubeconfig, kubectl
from tests.helm.render import NAMESPACE

CUSTOM = {
    "scaledobjects.keda.sh": "KEDA",
    "servicemonitors.monitoring.coreos.com": "the Prometheus operator",
    "prometheusrules.monitoring.coreos.com": "the Prometheus operator",
    "leaderworkersets.leaderworkerset.x-k8s.io": "LeaderWorkerSet",
    "httproutes.gateway.networking.k8s.io": "Gateway API",
    "grpcroutes.gateway.networking.k8s.io": "Gateway API",
}
"""Custom resource definitions that some values need → the project that has them. Their controllers need not run."""
LEVELS = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}


@pytest.fixture(scope="session")
def cluster() -> None:
    """Fail if there is no cluster, or if it lacks a definition that the values may need."""
    if not kubeconfig():
        pytest.fail("set KUBECONFIG to the file of a cluster that may be tried out")
    if shutil.which("kubectl") is None:
        pytest.fail("kubectl is not on the PATH")
    ready = kubectl("get", "--raw=/readyz")
    if ready.returncode != 0:
        pytest.fail(f"the cluster of KUBECONFIG does not answer: {ready.stderr}")
    missing = {of for name, of in CUSTOM.items() if kubectl("get", f"crd/{name}").returncode != 0}
    if missing:
        pytest.fail(f"the cluster lacks the custom resource definitions of {', '.join(sorted(missing))}")


@contextmanager
def empty_namespace() -> Generator[str]:
    """Make a namespace and delete it afterwards. Fail if it exists already."""
    labels = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": LEVELS}}
    made = kubectl("create", "--filename=-", given=json.dumps(labels))
    assert made.returncode == 0, made.stderr
    try:
        yield NAMESPACE
    finally:
        gone = kubectl("delete", f"namespace/{NAMESPACE}", "--timeout=100s")
    assert gone.returncode == 0, gone.stderr


@pytest.fixture
def namespace(cluster: None) -> Generator[str]:
    with empty_namespace() as name:
        yield name


@pytest.fixture(scope="module")
def namespace_of_tests(cluster: None) -> Generator[str]:
    """Make a namespace for tests that only do dry runs."""
    with empty_namespace() as name:
        yield name
