"""kubectl and Helm on the cluster that KUBECONFIG names."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests.helm.cells import Values
from tests.helm.render import HELM, NAMESPACE, RELEASE, SET_LABEL, Object, helm, template

KEPT = "PersistentVolumeClaim"
"""The claim of the weights outlives an uninstall."""


def kubeconfig() -> str:
    return os.environ.get("KUBECONFIG", "")


def kubectl(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", *arguments], input=given, capture_output=True, text=True, timeout=120, check=False
    )


def read(*arguments: str) -> list[Object]:
    """Return what `kubectl get` finds."""
    ended = kubectl("get", *arguments, "--output=json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)["items"]


def on_cluster(version: str, *arguments: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm on the cluster. Fail the test on an error or a warning."""
    ended = helm(version, *arguments, values=values, kubeconfig=kubeconfig())
    assert ended.returncode == 0, ended.stderr
    assert warnings(ended.stderr) == []
    return ended


def release(version: str, verb: str, *arguments: str, chart: str, values: Values) -> str:
    """Install or upgrade a chart in the tests' namespace; return what Helm printed."""
    where = (RELEASE, str(HELM / chart), f"--namespace={NAMESPACE}")
    return on_cluster(version, verb, *where, *arguments, values=values).stdout


def warnings(said: str) -> list[str]:
    """Return the server's warnings, as kubectl and Helm print them."""
    return [line for line in said.splitlines() if "warning" in line.lower()]


def manifest(version: str, chart: str, values: Values) -> str:
    ended = template(version, chart, values)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def as_pod(workload: Object) -> dict[str, Any]:
    """Return a pod of a workload, without references to objects that a dry run cannot find."""
    of = workload["spec"]["template"]
    only_there = ("serviceAccountName", "priorityClassName", "runtimeClassName")
    spec = {key: value for key, value in of["spec"].items() if key not in only_there}
    # The set's own label is its controller's to give.
    labels = {key: value for key, value in of["metadata"]["labels"].items() if key != SET_LABEL}
    metadata = {"name": workload["metadata"]["name"], "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def names(objects: list[Object]) -> set[str]:
    return {f"{found['kind']} {found['metadata']['name']}" for found in objects}
