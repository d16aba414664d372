"""A thinker on several nodes: its LeaderWorkerSet and related objects.

No package has a LeaderWorkerSet schema, so the allowed keys are listed here, from its v1 types.
"""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from tests.helm.render import Object, component, container_of, of_kind, pod_of, rendered, workloads
from tests.helm.test_objects import GROUP_CELLS
from tests.helm.test_schemas import KUBERNETES, validator

groups = pytest.mark.parametrize("cell", GROUP_CELLS)


def _map(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required or []}


_WHOLE = {"type": "integer", "minimum": 1}
_AMOUNT = {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%$"}]}
SPEC = _map(
    ["leaderWorkerTemplate"],
    replicas={"type": "integer", "minimum": 0},
    startupPolicy={"enum": ["LeaderCreated", "LeaderReady"]},
    networkConfig=_map(subdomainPolicy={"enum": ["Shared", "UniquePerReplica"]}),
    rolloutStrategy=_map(
        ["type"],
        type={"const": "RollingUpdate"},
        rollingUpdateConfiguration=_map(
            partition={"type": "integer", "minimum": 0}, maxUnavailable=_AMOUNT, maxSurge=_AMOUNT
        ),
    ),
    leaderWorkerTemplate=_map(
        ["workerTemplate"],
        size=_WHOLE,
        restartPolicy={"enum": ["RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None", "Default"]},
        subGroupPolicy=_map(subGroupPolicyType={"enum": ["LeaderWorker", "LeaderExcluded"]}, subGroupSize=_WHOLE),
        leaderTemplate={"type": "object"},
        workerTemplate={"type": "object"},
    ),
)


def group_of(cell: str) -> Object:
    (found,) = of_kind(rendered("helm-4", "antiphon", cell), "LeaderWorkerSet")
    return found


def members(cell: str) -> tuple[Object, Object]:
    """Return the leader's and the followers' pods."""
    leader, follower = workloads(rendered("helm-4", "antiphon", cell), "LeaderWorkerSet")
    return leader, follower


@groups
def test_it_has_only_known_keys(cell: str) -> None:
    found = group_of(cell)
    assert set(found) == {"apiVersion", "kind", "metadata", "spec"}
    assert found["apiVersion"] == "leaderworkerset.x-k8s.io/v1"
    jsonschema.validate(found["spec"], SPEC)


@groups
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_its_pods(cell: str, version: str) -> None:
    for name in ("leaderTemplate", "workerTemplate"):
        template = group_of(cell)["spec"]["leaderWorkerTemplate"][name]
        # A Deployment has the same pod template.
        around = {"selector": {"matchLabels": template["metadata"]["labels"]}, "template": template}
        item = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": around}
        assert not [error.message for error in validator(version, "apps/v1", "Deployment").iter_errors(item)]


@groups
def test_it_has_the_planned_size_and_restarts_as_one(cell: str) -> None:
    template = group_of(cell)["spec"]["leaderWorkerTemplate"]
    assert template["size"] == GROUP_CELLS[cell]
    assert template["restartPolicy"] == "RecreateGroupOnPodRestart"
    assert group_of(cell)["spec"]["startupPolicy"] == "LeaderCreated", "a leader is not ready without its followers"


@groups
def test_the_controller_tells_each_pod_its_rank(cell: str) -> None:
    told = [{entry["name"]: entry.get("value") for entry in container_of(found)["env"]} for found in members(cell)]
    assert told[0] == told[1]
    assert told[0]["ANTIPHON_NODES"] == "$(LWS_GROUP_SIZE)"
    assert told[0]["ANTIPHON_NODE_RANK"] == "$(LWS_WORKER_INDEX)"
    assert told[0]["ANTIPHON_MASTER_ADDRESS"] == "$(LWS_LEADER_ADDRESS)"
    assert told[0]["ANTIPHON_PIPELINE_PARALLEL_SIZE"] == str(GROUP_CELLS[cell])


@groups
def test_a_follower_differs_only_in_labels_and_placement(cell: str) -> None:
    leader, follower = members(cell)
    assert container_of(leader) == container_of(follower)
    assert component(leader) == "thinker"
    assert component(follower) == "thinker-follower"
    apart = {key: value for key, value in pod_of(leader).items() if key != "topologySpreadConstraints"}
    assert apart == pod_of(follower), "a group is not spread over zones"


@groups
def test_autoscaling_scales_whole_groups(cell: str) -> None:
    objects = rendered("helm-4", "antiphon", cell)
    (scaled,) = [
        found for found in of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler") if component(found) == "thinker"
    ]
    group = group_of(cell)
    assert scaled["spec"]["scaleTargetRef"] == {
        "apiVersion": group["apiVersion"],
        "kind": group["kind"],
        "name": group["metadata"]["name"],
    }
    assert "replicas" not in group["spec"], "it would be fought over"


@groups
def test_the_service_name_of_the_controller_stays_free(cell: str) -> None:
    objects = rendered("helm-4", "antiphon", cell)
    names = {found["metadata"]["name"] for found in of_kind(objects, "Service")}
    assert group_of(cell)["metadata"]["name"] not in names


def test_a_group_is_placed_as_the_values_say() -> None:
    cell = "instruct 120 s on nodes of one H100, HPA, kept together"
    group = group_of(cell)
    assert group["metadata"]["annotations"] == {
        "leaderworkerset.sigs.k8s.io/exclusive-topology": "topology.example/rack",
        "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology": "topology.example/block",
    }
    policy = group["spec"]["leaderWorkerTemplate"]["subGroupPolicy"]
    assert policy == {"subGroupPolicyType": "LeaderWorker", "subGroupSize": 1}
    other = group_of("thinking 60 s on nodes of two L4, KEDA")
    assert "annotations" not in other["metadata"]
    assert "subGroupPolicy" not in other["spec"]["leaderWorkerTemplate"]
