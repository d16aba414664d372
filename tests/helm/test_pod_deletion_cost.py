"""Deletion costs of pods: the scaler's rights, token and way to the API server. All are off unless a value is set."""

from __future__ import annotations

from typing import Any

import pytest

from services.scaler.settings import ScalerSettings
from tests.helm.cells import Values
from tests.helm.render import (
    NAMESPACE,
    Object,
    component,
    container_of,
    containers_of,
    of_kind,
    pod_of,
    read_objects,
    refusal,
    rendered,
    template,
    workloads,
)
from tests.helm.test_environment import load
from tests.helm.test_objects import GROUP_CELLS
from tests.helm.test_refusals import merged, nested

ON = nested("scaler.podDeletionCost.enabled", True)
SIDECARS: Values = {
    "scaler": {
        "extraContainers": [{"name": "sidecar", "image": "registry.example/sidecar:1"}],
        "initContainers": [{"name": "prepare", "image": "registry.example/prepare:1"}],
    }
}


def objects_of(*values: Values, chart: str = "antiphon") -> tuple[Object, ...]:
    ended = template("helm-4", chart, merged(*values) if values else {})
    assert ended.returncode == 0, ended.stderr
    return read_objects(ended.stdout)


def of_scaler(objects: tuple[Object, ...], kind: str) -> list[Object]:
    return [found for found in of_kind(objects, kind) if component(found) == "scaler"]


def the(objects: tuple[Object, ...], kind: str) -> Object:
    (found,) = of_scaler(objects, kind)
    return found


def egress(objects: tuple[Object, ...]) -> list[Object]:
    """Return the scaler's rules that lead to anything but Redis, DNS and the collector."""
    return [
        rule
        for rule in the(objects, "NetworkPolicy")["spec"]["egress"]
        if {port["port"] for port in rule.get("ports", ())} not in ({6379}, {53}, {4317})
    ]


def variables(found: Object) -> dict[str, Any]:
    return {entry["name"]: entry for entry in container_of(found)["env"]}


def test_by_default_the_scaler_has_no_rights_no_token_and_no_way_to_the_api_server() -> None:
    objects = objects_of()
    assert not of_scaler(objects, "Role")
    assert not of_scaler(objects, "RoleBinding")
    assert not egress(objects)
    deployment = the(objects, "Deployment")
    assert {volume["name"] for volume in pod_of(deployment)["volumes"]} == {"tmp", "cache"}
    assert "ANTIPHON_POD_DELETION_COST" not in variables(deployment)


def test_the_scaler_may_patch_pods_and_nothing_else() -> None:
    objects = objects_of(ON)
    role, binding, account = (the(objects, kind) for kind in ("Role", "RoleBinding", "ServiceAccount"))
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role",
        "name": role["metadata"]["name"],
    }
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": NAMESPACE}
    ]
    # No pod but the scaler's runs as this account.
    users = [found for found in workloads(objects) if pod_of(found).get("serviceAccountName") == "rel-scaler"]
    assert [component(found) for found in users] == ["scaler"]
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")


def test_only_the_scalers_container_gets_the_token() -> None:
    objects = objects_of(ON, SIDECARS)
    for found in workloads(objects):
        tokens = [
            volume["name"]
            for volume in pod_of(found).get("volumes", ())
            if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", ()))
        ]
        holders = [
            container["name"]
            for container in containers_of(found)
            for mount in container.get("volumeMounts", ())
            if mount["name"] in tokens
        ]
        assert holders == (["scaler"] if component(found) == "scaler" else [])
        assert pod_of(found)["automountServiceAccountToken"] is (component(found) == "redis-auth")


def test_the_scaler_finds_the_token_where_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = the(objects_of(ON), "Deployment")
    settings = load(monkeypatch, "scaler", deployment)
    assert isinstance(settings, ScalerSettings)
    assert settings.pod_deletion_cost
    assert settings.pod_namespace == NAMESPACE
    (mount,) = [one for one in container_of(deployment)["volumeMounts"] if one["name"] == "api-access"]
    assert mount["mountPath"] == str(settings.service_account)
    (volume,) = [one for one in pod_of(deployment)["volumes"] if one["name"] == "api-access"]
    token, authority = volume["projected"]["sources"]
    assert token["serviceAccountToken"]["path"] == "token"
    assert [item["path"] for item in authority["configMap"]["items"]] == ["ca.crt"]


def test_the_scaler_reaches_the_api_server_on_its_ports_only() -> None:
    assert egress(objects_of(ON)) == [{"ports": [{"port": port, "protocol": "TCP"} for port in (443, 6443)]}]
    peer = {"ipBlock": {"cidr": "10.9.0.1/32"}}
    policy = nested("global.networkPolicy", {"apiServer": [peer], "apiServerPorts": [8443]})
    assert egress(objects_of(ON, policy)) == [{"ports": [{"port": 8443, "protocol": "TCP"}], "to": [peer]}]


@pytest.mark.parametrize("chart", ["antiphon", "scaler"])
def test_someone_else_may_give_the_right(chart: str) -> None:
    given: Values = {"podDeletionCost": {"enabled": True, "createRole": False}, "serviceAccount": {"name": "patcher"}}
    objects = objects_of({"scaler": given} if chart == "antiphon" else given, chart=chart)
    assert not of_scaler(objects, "Role")
    assert not of_scaler(objects, "RoleBinding")
    assert pod_of(the(objects, "Deployment"))["serviceAccountName"] == "patcher"
    assert egress(objects)


def test_a_named_account_gets_the_right() -> None:
    account = nested("scaler.serviceAccount", {"create": False, "name": "patcher"})
    (subject,) = the(objects_of(ON, account), "RoleBinding")["subjects"]
    assert subject["name"] == "patcher"


def test_the_namespaces_default_account_never_gets_the_right() -> None:
    told = refusal(template("helm-4", "antiphon", merged(ON, nested("scaler.serviceAccount.create", False))))
    assert any("scaler.podDeletionCost.enabled" in line and "default" in line for line in told), told


def test_an_hpas_triggers_stay_beside_it() -> None:
    env = variables(the(objects_of(ON, nested("thinker.autoscaling.type", "hpa")), "Deployment"))
    assert env["ANTIPHON_POD_DELETION_COST"]["value"] == "true"
    assert '"stage":"thinker"' in env["ANTIPHON_TRIGGERS"]["value"]


def test_the_setting_has_no_second_value() -> None:
    told = refusal(template("helm-4", "antiphon", nested("scaler.settings.pod_deletion_cost", True)))
    assert any("scaler.settings.pod_deletion_cost" in line for line in told), told


def test_workers_of_replica_sets_report_their_pods() -> None:
    objects = rendered("helm-4", "antiphon", "as it is")
    for found in workloads(objects, "Deployment"):
        env = variables(found)
        if component(found) in ("preprocess", "thinker", "talker"):
            for name, field in (("NAME", "metadata.name"), ("NAMESPACE", "metadata.namespace")):
                assert env[f"ANTIPHON_POD_{name}"]["valueFrom"] == {"fieldRef": {"fieldPath": field}}
        else:
            assert "ANTIPHON_POD_NAME" not in env


@pytest.mark.parametrize("cell", GROUP_CELLS)
def test_workers_of_groups_report_none(cell: str) -> None:
    # A group's StatefulSet removes the highest ordinal, whatever its pods cost.
    for found in workloads(rendered("helm-4", "antiphon", cell), "LeaderWorkerSet"):
        assert "ANTIPHON_POD_NAME" not in variables(found)
