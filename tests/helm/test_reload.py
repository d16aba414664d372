"""An upgrade rolls every pod that reads a changed ConfigMap or Secret."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.helm.cells import CELLS, UMBRELLA, Values
from tests.helm.render import Object, component, of_kind, pod_of, rendered, template, workloads
from tests.helm.test_refusals import merged, nested

HPA_CELL = "instruct 15 s on A100 40, HPA"
SUMS = "global.weights.download.checksums"


def references(pod: Object) -> Iterator[tuple[str, str]]:
    """Yield kind and name of every ConfigMap and Secret that the pod reads."""
    kinds = {"configMap": "ConfigMap", "secret": "Secret"}
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        sources = [entry.get("valueFrom", {}) for entry in container.get("env", ())] + container.get("envFrom", [])
        for source in sources:
            for key, of in source.items():
                if (kind := kinds.get(key.removesuffix("KeyRef").removesuffix("Ref"))) is not None:
                    yield kind, of["name"]
    for volume in pod.get("volumes", ()):
        parts: list[dict[str, Any]] = [volume, *volume.get("projected", {}).get("sources", ())]
        for part in parts:
            for key in kinds.keys() & part.keys():
                yield kinds[key], part[key].get("name") or part[key]["secretName"]


def checksum(data: dict[str, str]) -> str:
    """Return Helm's `toJson | sha256sum`, which escapes for HTML."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return hashlib.sha256(text.encode()).hexdigest()


def stale(objects: tuple[Object, ...]) -> list[tuple[str, str]]:
    """Return workload and object wherever a workload reads a rendered object without its current checksum."""
    own = {(item["kind"], item["metadata"]["name"]): item for item in of_kind(objects, "ConfigMap", "Secret")}
    return [
        (found["metadata"]["name"], name)
        for found in workloads(objects)
        for kind, name in references(pod_of(found))
        if (kind, name) in own
        and found["spec"]["template"]["metadata"].get("annotations", {}).get(f"checksum/{name}")
        != checksum(own[kind, name]["data"])
    ]


@pytest.mark.parametrize(("chart", "cell"), CELLS)
def test_pods_have_a_checksum_of_what_they_read(chart: str, cell: str) -> None:
    assert stale(rendered("helm-4", chart, cell)) == []


def test_some_pods_read_an_object_of_the_charts() -> None:
    objects = rendered("helm-4", "antiphon", "as it is")
    rendered_names = {item["metadata"]["name"] for item in of_kind(objects, "ConfigMap", "Secret")}
    read = {name for found in workloads(objects) for _, name in references(pod_of(found))}
    assert read & rendered_names


def test_a_missing_checksum_would_be_found() -> None:
    objects = json.loads(json.dumps(rendered("helm-4", "antiphon", "as it is")))
    for item in of_kind(objects, "ConfigMap"):
        item["data"] = dict.fromkeys(item["data"], "changed")
    assert {name.rpartition("-")[0] for name, _ in stale(objects)} == {"rel-weights"}


@pytest.mark.parametrize(
    ("cell", "changed", "rolled"),
    [
        (HPA_CELL, nested("thinker.autoscaling.maxReplicas", 13), {"scaler"}),
        (HPA_CELL, nested("talker.autoscaling.scaleDownDelay_s", 60), {"scaler"}),
        (HPA_CELL, nested("preprocess.autoscaling.type", "none"), {"scaler"}),
        ("as it is", nested(SUMS, f"{'1' * 64}  <a & b>"), {"weights"}),
        # KEDA sends its trigger with each call.
        ("as it is", nested("thinker.autoscaling.type", "keda"), set[str]()),
    ],
    ids=str,
)
def test_a_change_rolls_the_pods_that_read_it(cell: str, changed: Values, rolled: set[str]) -> None:
    ended = template("helm-4", "antiphon", merged(UMBRELLA[cell], changed))
    assert ended.returncode == 0, ended.stderr
    new = tuple(item for item in yaml.load_all(ended.stdout, yaml.CSafeLoader) if item)
    assert stale(new) == []
    before, after = (
        {component(item): item["spec"]["template"] for item in workloads(objects)}
        for objects in (rendered("helm-4", "antiphon", cell), new)
    )
    assert {name for name in before if before[name] != after[name]} == rolled
