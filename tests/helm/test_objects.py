"""Properties of the objects that schemas cannot check."""

from __future__ import annotations

import json
import re

import pytest

from services.common.settings import END_S
from services.sizing.gpus import GPUS
from services.sizing.plan import plan_talker, plan_thinker
from services.sizing.table import MODELS
from tests.helm.cells import CELLS, UMBRELLA
from tests.helm.render import (
    NAMESPACE,
    Object,
    component,
    container_of,
    containers_of,
    of_kind,
    pod_of,
    rendered,
    weights_job,
    workloads,
)

cells = pytest.mark.parametrize(("chart", "cell"), CELLS)
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
KEDA_CELL = "instruct 60 s on H100, KEDA, monitored, from zero"


GROUP_CELLS = {
    "thinking 60 s on nodes of two L4, KEDA": 4,
    "instruct 120 s on nodes of one H100, HPA, kept together": 2,
}
"""Cells with a thinker on several nodes → how many nodes."""


def pod_makers(chart: str, cell: str, *kinds: str) -> list[Object]:
    return workloads(rendered("helm-4", chart, cell), *kinds)


def running(chart: str, cell: str) -> list[Object]:
    return pod_makers(chart, cell, "Deployment", "LeaderWorkerSet")


def owner_of(found: Object) -> str:
    """Return the name of the workload that a Service selects."""
    return found["metadata"]["name"].removesuffix("-leader").removesuffix("-metrics")


def environment(found: Object) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container_of(found).get("env", ())}


def deployment(cell: str, name: str, chart: str = "antiphon") -> Object:
    found = [item for item in running(chart, cell) if component(item) == name]
    assert len(found) == 1
    return found[0]


@cells
def test_every_selector_selects_its_pods_and_no_others(chart: str, cell: str) -> None:
    objects = rendered("helm-4", chart, cell)
    pods = {
        found["metadata"]["name"]: found["spec"]["template"]["metadata"]["labels"] for found in pod_makers(chart, cell)
    }

    def selected(labels: dict[str, str]) -> set[str]:
        return {name for name, own in pods.items() if labels.items() <= own.items()}

    for found in running(chart, cell):
        name = found["metadata"]["name"]
        if found["kind"] == "Deployment":
            assert selected(found["spec"]["selector"]["matchLabels"]) == {name}
        for spread in pod_of(found).get("topologySpreadConstraints", ()):
            assert selected(spread["labelSelector"]["matchLabels"]) == {name}
    for found in of_kind(objects, "Service"):
        assert selected(found["spec"]["selector"]) == {owner_of(found)}
    groups = {found["metadata"]["name"] for found in of_kind(objects, "LeaderWorkerSet")}
    for found in of_kind(objects, "PodDisruptionBudget"):
        name = found["metadata"]["name"]
        whole = {name, f"{name}-follower"} if name in groups else {name}
        assert selected(found["spec"]["selector"]["matchLabels"]) == whole
    services = {found["metadata"]["name"]: found["metadata"]["labels"] for found in of_kind(objects, "Service")}
    for found in of_kind(objects, "ServiceMonitor"):
        wanted = found["spec"]["selector"]["matchLabels"].items()
        (name,) = [name for name, labels in services.items() if wanted <= labels.items()]
        assert name.removesuffix("-leader").removesuffix("-metrics") == found["metadata"]["name"]
        assert services[name][found["spec"]["jobLabel"]] == f"antiphon-{component(found)}"


@cells
def test_services_and_probes_name_existing_ports(chart: str, cell: str) -> None:
    objects = rendered("helm-4", chart, cell)
    ports = {
        found["metadata"]["name"]: {
            port["name"]: port["containerPort"]
            for container in containers_of(found)
            for port in container.get("ports", ())
        }
        for found in running(chart, cell)
    }
    for found in of_kind(objects, "Service"):
        assert {port["targetPort"] for port in found["spec"]["ports"]} <= set(ports[owner_of(found)])
    for found in of_kind(objects, "ServiceMonitor"):
        assert {point["port"] for point in found["spec"]["endpoints"]} <= set(ports[found["metadata"]["name"]])
    for found in running(chart, cell):
        own = ports[found["metadata"]["name"]]
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container_of(found).get(name, {})
            if "grpc" in probe:
                assert probe["grpc"]["port"] == own["grpc"]
            for how in ("httpGet", "tcpSocket"):
                if how in probe:
                    assert probe[how]["port"] in own


@cells
def test_a_pod_that_failed_says_why(chart: str, cell: str) -> None:
    for container in map(container_of, running(chart, cell)):
        if "-m" in container.get("command", ()):  # not the bundled Redis
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError", container["name"]


@cells
def test_limits_of_gpus_and_memory_equal_their_requests(chart: str, cell: str) -> None:
    for found in pod_makers(chart, cell):
        for container in containers_of(found):
            limited = container["resources"]
            assert limited["limits"]["memory"] == limited["requests"]["memory"]
        resources = container_of(found)["resources"]
        gpus = {name for part in resources.values() for name in part if name.startswith("nvidia.com/")}
        for name in gpus:
            assert resources["limits"][name] == resources["requests"][name]
            assert re.fullmatch("[1248]", resources["limits"][name]), "a quoted whole number"
        assert len(gpus) == (component(found) in ("thinker", "thinker-follower", "talker") and "CPU" not in cell)


@cells
def test_the_grace_period_covers_the_delay_and_the_drain(chart: str, cell: str) -> None:
    for found in running(chart, cell):
        if component(found) == "redis":
            continue
        delay_s = float(environment(found).get("ANTIPHON_SHUTDOWN_DELAY_S", 0))
        assert (delay_s > 0) == (component(found) == "gateway")
        drain_s = float(environment(found)["ANTIPHON_DRAIN_S"])
        grace_s = pod_of(found)["terminationGracePeriodSeconds"]
        assert grace_s >= delay_s + drain_s + END_S
        if found["kind"] == "Deployment":
            assert found["spec"]["progressDeadlineSeconds"] > start_budget_s(found)


@cells
def test_the_cluster_autoscaler_evicts_only_pods_that_end_in_time(chart: str, cell: str) -> None:
    limit_s = CELLS[chart, cell].get("global", {}).get("maxGracefulTermination_s", 600)
    for found in running(chart, cell):
        annotations = found["spec"]["template"]["metadata"]["annotations"]
        fits = component(found) != "redis" and pod_of(found)["terminationGracePeriodSeconds"] <= limit_s
        assert annotations[SAFE_TO_EVICT] == ("true" if fits else "false")


def test_by_default_an_autoscaler_may_empty_the_nodes_of_workers() -> None:
    kept = {
        component(found)
        for found in running("antiphon", "as it is")
        if found["spec"]["template"]["metadata"]["annotations"][SAFE_TO_EVICT] == "false"
    }
    assert kept == {"gateway", "redis"}


def start_budget_s(found: Object) -> int:
    probe = container_of(found)["startupProbe"]
    return probe["periodSeconds"] * probe["failureThreshold"]


def test_the_start_budget_follows_the_weights_and_the_disk() -> None:
    thinker, talker = (deployment("as it is", name) for name in ("thinker", "talker"))
    # 64 GB at 400 MB/s, twice, and 600 s for everything but reading; 8 GB and 300 s.
    assert start_budget_s(thinker) == 2 * 64_000 // 400 + 600
    assert start_budget_s(talker) == 2 * 8_000 // 400 + 300


@cells
def test_pods_are_locked_down(chart: str, cell: str) -> None:
    for found in pod_makers(chart, cell):
        pod = pod_of(found)
        # Only the jobs that make Secrets call the API server.
        assert pod["automountServiceAccountToken"] is (component(found) in ("redis-auth", "control-auth"))
        assert pod["enableServiceLinks"] is False, "else a release called antiphon sets unknown ANTIPHON_* variables"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers_of(found):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security.get("runAsUser") == (None if cell.startswith("OpenShift") else 10001)
            for mount in container.get("volumeMounts", ()):
                writable = mount["name"] in ("tmp", "cache", "shm", "database") or (
                    found["kind"] == "Job" and mount["name"] == "weights"
                )
                assert writable or mount["readOnly"] is True
    for account in of_kind(rendered("helm-4", chart, cell), "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@cells
def test_every_mount_is_a_volume_and_every_volume_is_mounted(chart: str, cell: str) -> None:
    for found in pod_makers(chart, cell):
        pod = pod_of(found)
        mounts = {mount["name"] for container in containers_of(found) for mount in container.get("volumeMounts", ())}
        assert mounts == {volume["name"] for volume in pod.get("volumes", ())}


@cells
def test_no_manifest_contains_a_secret(chart: str, cell: str) -> None:
    for found in pod_makers(chart, cell):
        for container in containers_of(found):
            for entry in container.get("env", ()):
                if re.search("PASSWORD|TOKEN|KEY", entry["name"]):
                    assert "secretKeyRef" in entry["valueFrom"], entry["name"]


def test_charts_render_the_planned_sizes() -> None:
    for cell, values in UMBRELLA.items():
        sizing = values.get("global", {}).get("sizing")
        if not sizing or sizing["gpu"] == "cpu":
            continue
        plan = plan_thinker(
            MODELS[sizing["model"]], sizing["video_s"], GPUS[sizing["gpu"]], sizing["gpusPerNode"], sizing["maxNodes"]
        )
        thinker = deployment(cell, "thinker")
        env = environment(thinker)
        assert env["ANTIPHON_TENSOR_PARALLEL_SIZE"] == str(plan.tensor_parallel)
        assert env.get("ANTIPHON_PIPELINE_PARALLEL_SIZE", "1") == str(plan.nodes) == str(GROUP_CELLS.get(cell, 1))
        assert env["ANTIPHON_MAX_MODEL_LEN"] == str(plan.max_model_len)
        assert env["ANTIPHON_GPU_MEMORY_UTILIZATION"] == str(plan.fraction)
        assert container_of(thinker)["resources"]["limits"][plan.gpu.resource] == str(plan.tensor_parallel)
        if MODELS[sizing["model"]].speaks:
            gpu = GPUS[sizing["talkerGpu"] or sizing["gpu"]]
            talker = deployment(cell, "talker")
            assert environment(talker)["ANTIPHON_SLOTS"] == str(plan_talker(sizing["video_s"], gpu).slots)
            assert container_of(talker)["resources"]["limits"][gpu.resource] == "1"
        else:
            assert "talker" not in {component(found) for found in rendered("helm-4", "antiphon", cell)}


def test_keda_sends_what_the_scaler_reads() -> None:
    objects = rendered("helm-4", "antiphon", KEDA_CELL)
    scaled = {component(found): found["spec"] for found in of_kind(objects, "ScaledObject")}
    assert set(scaled) == {"preprocess", "thinker", "talker"}
    for name, spec in scaled.items():
        target = deployment(KEDA_CELL, name)
        assert spec["scaleTargetRef"] == {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": target["metadata"]["name"],
        }
        assert "replicas" not in target["spec"], "it would be fought over"
        (trigger,) = spec["triggers"]
        assert trigger["type"] == "external-push"
        assert trigger["metadata"] == {
            "scalerAddress": f"rel-scaler.{NAMESPACE}:9000",
            "stage": name,
            "model": environment(target)["ANTIPHON_SERVED_NAME"],
            "slotsPerReplica": environment(target)["ANTIPHON_SLOTS"],
            "targetUtilization": "0.8",
            "maxWaitSeconds": "5",
            "minReplicas": str(spec["minReplicaCount"]),
            "maxReplicas": str(spec["maxReplicaCount"]),
            "scaleDownDelaySeconds": "300",
        }
    assert environment(deployment(KEDA_CELL, "gateway"))["ANTIPHON_COLD_START_S"] == "300"
    assert "rel-scaler" in {found["metadata"]["name"] for found in of_kind(objects, "Service")}


def test_an_hpa_reads_the_scalers_metric() -> None:
    found = of_kind(rendered("helm-4", "antiphon", "instruct 15 s on A100 40, HPA"), "HorizontalPodAutoscaler")
    assert {component(item) for item in found} == {"preprocess", "thinker", "talker"}
    for item in found:
        (metric,) = item["spec"]["metrics"]
        assert metric["external"]["metric"]["name"] == "antiphon_scaler_wanted_replicas"
        assert metric["external"]["metric"]["selector"]["matchLabels"]["stage"] == component(item)
    scaler = environment(deployment("instruct 15 s on A100 40, HPA", "scaler"))
    triggers = {trigger["stage"]: trigger for trigger in json.loads(scaler["ANTIPHON_TRIGGERS"])}
    assert set(triggers) == {"preprocess", "thinker", "talker"}
    slots = {
        name: environment(deployment("instruct 15 s on A100 40, HPA", name))["ANTIPHON_SLOTS"] for name in triggers
    }
    assert {name: trigger["slotsPerReplica"] for name, trigger in triggers.items()} == slots
    assert "ANTIPHON_TRIGGERS" not in environment(deployment(KEDA_CELL, "scaler"))


def test_routes_do_not_time_out_streams() -> None:
    (ingress,) = of_kind(rendered("helm-4", "antiphon", "Redis over TLS, Ingress, checked download"), "Ingress")
    for what in ("read", "send"):
        assert ingress["metadata"]["annotations"][f"nginx.ingress.kubernetes.io/proxy-{what}-timeout"] == "3660"
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    objects = rendered("helm-4", "antiphon", "Sentinel, Gateway API")
    (route,) = of_kind(objects, "HTTPRoute")
    assert route["spec"]["rules"][0]["timeouts"] == {"request": "3660s", "backendRequest": "3660s"}
    (calls,) = of_kind(objects, "GRPCRoute")
    ports = {
        port["port"]
        for found in of_kind(objects, "Service")
        if component(found) == "gateway"
        for port in found["spec"]["ports"]
    }
    assert {rule["backendRefs"][0]["port"] for rule in (*route["spec"]["rules"], *calls["spec"]["rules"])} <= ports


def test_a_download_resumes_and_is_checked() -> None:
    objects = rendered("helm-4", "antiphon", "Redis over TLS, Ingress, checked download")
    job = weights_job(objects)
    script = container_of(job)["command"][2]
    assert 'hf download "$REPOSITORY" --revision "$REVISION" --local-dir "$TARGET"' in script
    assert "hf cache verify" in script
    assert environment(job)["MARK"] == ".antiphon-refs-pr-1"
    for name in ("preprocess", "thinker", "talker"):
        (wait,) = pod_of(deployment("Redis over TLS, Ingress, checked download", name))["initContainers"]
        assert wait["env"][0]["value"] == f"{environment(job)['TARGET']}/{environment(job)['MARK']}"
    own = weights_job(rendered("helm-4", "antiphon", "a third source by an image of one's own"))
    assert "rclone copy" in container_of(own)["command"][2]
    assert job["metadata"]["name"] != own["metadata"]["name"], "a job cannot be changed"
