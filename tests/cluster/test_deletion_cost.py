"""On a cluster the scaler may do what its client does and no more, and a ReplicaSet removes the cheapest pod."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from services.scaler.deletion_costs import ANNOTATION
from services.scaler.kubernetes_pods import KubernetesPods
from tests.cluster.tools import kubectl, read
from tests.fixtures.wait import wait_until
from tests.helm.render import component, of_kind, rendered

pytestmark = pytest.mark.cluster

CELL = "instruct 60 s on H100, KEDA, monitored, from zero"
ACCOUNT = "rel-scaler"


def apply_scaler(namespace: str, replicas: int) -> None:
    """Apply the rendered scaler and its rights. Its pods never start, as nobody has the image or the Secret."""
    objects = [
        item
        for item in of_kind(rendered("helm-4", "antiphon", CELL), "ServiceAccount", "Role", "RoleBinding", "Deployment")
        if component(item) == "scaler"
    ]
    listed = json.loads(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    for item in of_kind(tuple(listed["items"]), "Deployment"):
        item["spec"]["replicas"] = replicas
        item["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 0
    ended = kubectl("apply", f"--namespace={namespace}", "--filename=-", given=json.dumps(listed))
    assert ended.returncode == 0, ended.stderr


def make_account(namespace: str, folder: Path) -> str:
    """Write the account's token and the server's CA into `folder`, as the kubelet does. Return the server's URL."""
    token = kubectl("create", "token", ACCOUNT, f"--namespace={namespace}")
    assert token.returncode == 0, token.stderr
    (folder / "token").write_text(token.stdout)
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json").stdout)
    cluster = config["clusters"][0]["cluster"]
    (folder / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    return cluster["server"]


def pods_of(namespace: str) -> set[str]:
    found = read("pods", f"--namespace={namespace}", "--selector=app.kubernetes.io/name=scaler")
    return {pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]}


async def are_left(namespace: str, left: set[str]) -> bool:
    return await asyncio.to_thread(pods_of, namespace) == left


async def test_a_replica_set_removes_the_cheapest_pod(namespace: str, tmp_path: Path) -> None:
    apply_scaler(namespace, 3)
    url = make_account(namespace, tmp_path)

    async def there() -> bool:
        return len(await asyncio.to_thread(pods_of, namespace)) == 3

    await wait_until(there)
    dear, cheap, dearest = sorted(pods_of(namespace))
    async with KubernetesPods(url, namespace, tmp_path) as pods:
        for pod, cost in ((dear, "200"), (cheap, "100"), (dearest, "300")):
            await pods.annotate(pod, ANNOTATION, cost)
    for replicas, left in ((2, {dear, dearest}), (1, {dearest})):
        apply_scaler(namespace, replicas)
        await wait_until(lambda left=left: are_left(namespace, left))


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("patch", "pods", True),
        *((verb, "pods", False) for verb in ("get", "list", "delete", "create", "update")),
        ("patch", "pods/ephemeralcontainers", False),
        ("create", "pods/exec", False),
        ("patch", "deployments", False),
        ("get", "secrets", False),
    ],
)
def test_the_account_may_patch_pods_and_nothing_else(namespace: str, verb: str, resource: str, allowed: bool) -> None:
    apply_scaler(namespace, 0)
    who = f"--as=system:serviceaccount:{namespace}:{ACCOUNT}"
    asked = kubectl("auth", "can-i", verb, resource, f"--namespace={namespace}", who)
    assert asked.stdout.startswith("yes" if allowed else "no"), asked.stdout + asked.stderr
