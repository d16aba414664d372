"""Run Helm and read the objects that it renders."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tests.fixtures.wait import HANGS_AFTER_S
from tests.helm.cells import CELLS, Values

HELM = Path(__file__).parents[2] / "helm"
VERSIONS = ("helm-3", "helm-4")
RELEASE, NAMESPACE = "rel", "speech"
Object = dict[str, Any]


@functools.cache
def binary(version: str) -> str:
    """Return the path of Helm. Skip the test if it is missing, or fail it with CI=true."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "antiphon/tools/helm" / version
    if path.exists():
        return str(path)
    reason = f"no {version}; tests/tools/helm.sh brings it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def helm(
    version: str, *arguments: str, values: Values | None = None, kubeconfig: str = "/nonexistent"
) -> subprocess.CompletedProcess[str]:
    """Run Helm on the values, without the user's configuration. Without a named cluster it uses none."""
    given = ["--values", "-"] if values else []
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": kubeconfig}
    environ["GOGC"] = "off"  # collecting garbage takes a third of its time
    return subprocess.run(
        [binary(version), *arguments, *given],
        input=json.dumps(values) if values else "",
        env=environ,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
        check=False,
    )


def template(version: str, chart: str, values: Values, release: str = RELEASE) -> subprocess.CompletedProcess[str]:
    return helm(version, "template", release, str(HELM / chart), "--namespace", NAMESPACE, values=values)


def refusal(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of an error of Helm, without its notes on symbolic links."""
    assert ended.returncode != 0, "it was taken"
    return [line for line in ended.stderr.splitlines() if line and "symbolic link" not in line]


class Strict(yaml.CSafeLoader):
    """Loads YAML and refuses duplicate keys, of which Kubernetes would take one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"keys twice in one map: {keys}"
        return super().construct_mapping(node, deep)


def read_objects(text: str) -> tuple[Object, ...]:
    documents = cast("list[Object | None]", list(yaml.load_all(text, Strict)))
    return tuple(document for document in documents if document)


@functools.cache
def rendered(version: str, chart: str, cell: str) -> tuple[Object, ...]:
    """Return all objects of a cell."""
    return read_objects(rendered_text(version, chart, cell))


@functools.cache
def rendered_text(version: str, chart: str, cell: str) -> str:
    ended = template(version, chart, CELLS[chart, cell])
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def of_kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [found for found in objects if found["kind"] in kinds]


SET_LABEL = "leaderworkerset.sigs.k8s.io/name"


def workloads(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    """Return the objects that make pods, of those kinds (none = all).

    A LeaderWorkerSet counts as two, "<name>" and "<name>-follower", with the label that its controller gives its pods.
    """
    found = of_kind(objects, "Deployment", "Job")
    for group in of_kind(objects, "LeaderWorkerSet"):
        of = group["spec"]["leaderWorkerTemplate"]
        for template, suffix in ((of["leaderTemplate"], ""), (of["workerTemplate"], "-follower")):
            own = json.loads(json.dumps(template))
            own["metadata"]["labels"][SET_LABEL] = group["metadata"]["name"]
            metadata = {"name": group["metadata"]["name"] + suffix, "labels": own["metadata"]["labels"]}
            found.append({"kind": group["kind"], "metadata": metadata, "spec": {"template": own}})
    return [item for item in found if not kinds or item["kind"] in kinds]


def component(found: Object) -> str:
    return found["metadata"]["labels"]["app.kubernetes.io/component"]


def pod_of(found: Object) -> Object:
    return found["spec"]["template"]["spec"]


def weights_job(objects: tuple[Object, ...]) -> Object:
    """Return the job that downloads the weights."""
    (found,) = [item for item in of_kind(objects, "Job") if component(item) == "weights"]
    return found


def container_of(found: Object) -> Object:
    """Return the main container; containers beside it follow it in the pod."""
    return pod_of(found)["containers"][0]


def containers_of(found: Object) -> list[Object]:
    pod = pod_of(found)
    return [*pod["containers"], *pod.get("initContainers", ())]
