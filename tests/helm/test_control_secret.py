"""The job that makes the first admin key and the gateways' token, against an API server that enforces its Role."""

from __future__ import annotations

import base64
from pathlib import Path

from services.control.settings import MIN_SECRET_CHARS
from tests.helm.render import Object, component, container_of, rendered, workloads
from tests.helm.test_control import POSTGRESQL_CELL, entry, objects_of, one
from tests.helm.test_redis_secret import ApiServer, encoded, folder, run
from tests.helm.test_refusals import nested

__all__ = ["folder"]


def auth_job(objects: tuple[Object, ...]) -> Object:
    return one(objects, "Job", "control-auth")


def test_the_job_makes_the_secrets_that_pods_read(folder: Path) -> None:
    objects = rendered("helm-4", "antiphon", POSTGRESQL_CELL)
    with ApiServer(folder, one(objects, "Role", "control-auth")["rules"]).running() as server:
        for _ in range(2):
            ended = run(server, folder, auth_job(objects))
            assert ended.returncode == 0, ended.stderr
    ((name, secret),) = server.secrets.items()
    values = [base64.b64decode(value).decode() for value in secret["data"].values()]
    assert len(set(values)) == 2
    assert all(len(value) >= MIN_SECRET_CHARS for value in values)
    read = [
        entry["valueFrom"]["secretKeyRef"]
        for found in workloads(objects)
        for entry in container_of(found).get("env", ())
        if entry["name"] in ("ANTIPHON_GATEWAY_TOKEN", "ANTIPHON_CONTROL_TOKEN", "ANTIPHON_BOOTSTRAP_ADMIN_KEY")
    ]
    assert len(read) == 4, "of the control plane, its migration and the gateway"
    assert {reference["name"] for reference in read} == {name}
    assert {reference["key"] for reference in read} == set(secret["data"])


def test_a_secret_that_lacks_a_field_is_named(folder: Path) -> None:
    objects = rendered("helm-4", "control", "as it is")
    with ApiServer(folder, one(objects, "Role", "control-auth")["rules"]).running() as server:
        server.secrets["rel-control-auth"] = {"data": {"admin-key": encoded("mine")}}
        ended = run(server, folder, auth_job(objects))
    assert ended.returncode == 1
    assert "rel-control-auth has no 'gateway-token'" in ended.stderr
    assert "control.gatewayToken.secret" in ended.stderr


def test_the_job_makes_only_what_no_other_secret_has() -> None:
    objects = objects_of(nested("adminKey.secret.name", "mine"), "control")
    assert entry(auth_job(objects), "FIELDS")["value"] == '["gateway-token"]'
    pod = one(objects, "Deployment", "control")
    key = entry(pod, "ANTIPHON_BOOTSTRAP_ADMIN_KEY")["valueFrom"]["secretKeyRef"]
    assert key == {"name": "mine", "key": "admin-key"}
    whole = rendered("helm-4", "control", "PostgreSQL, settings, Secrets of one's own")
    assert not [item for item in whole if component(item) == "control-auth"]
