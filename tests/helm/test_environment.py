"""The services accept every environment that the charts render."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from services.common.settings import load_settings
from services.common.settings_check import settings_class
from tests.helm.cells import CELLS, SERVICES, STACK
from tests.helm.render import Object, component, container_of, of_kind, rendered, workloads

SECRET = "/+=@%# s3cret of 24 and more"
"""With characters that a URL must escape, as in passwords of managed services, and long enough for every service."""
URL_IN_SECRET = "rediss://redis.example:6380/0?ssl_ca_certs=/redis-tls/ca.crt"
DATABASE_URL_IN_SECRET = "postgresql://antiphon@db.example/antiphon?sslmode=require"
BY_CONTROLLER = {
    "LWS_GROUP_SIZE": "2",
    "LWS_WORKER_INDEX": "1",
    "LWS_LEADER_ADDRESS": "rel-thinker-0.rel-thinker.speech",
}
"""The variables that the controller of LeaderWorkerSet adds first."""
FIELDS = {
    "metadata.name": "rel-thinker-7d9f-abcde",
    "metadata.namespace": "speech",
    "status.hostIPs": "10.0.0.7,fd00::7",
}


def environment(
    container: Object,
    secret: str = SECRET,
    pod_ip: str = "10.1.2.3",
    by_controller: Mapping[str, str] = BY_CONTROLLER,
    fields: Mapping[str, str] = FIELDS,
) -> dict[str, str]:
    """Return the environment as Kubernetes and the controller set it, with secrets, fields and $(NAME) resolved."""
    found = dict(by_controller)
    for entry in container["env"]:
        source = entry.get("valueFrom", {})
        if source:
            value = fields.get(source["fieldRef"]["fieldPath"], pod_ip) if "fieldRef" in source else secret
            if entry["name"] == "ANTIPHON_REDIS_URL":
                value = URL_IN_SECRET
            if entry["name"] == "ANTIPHON_DATABASE_URL":
                value = DATABASE_URL_IN_SECRET
        else:
            value = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], entry["value"])
        found[entry["name"]] = value
    return found


def load(monkeypatch: pytest.MonkeyPatch, service: str, found: Object, fields: Mapping[str, str] = FIELDS) -> Any:
    """Return the settings of a service whose pod has these fields."""
    for name in [name for name in os.environ if name.startswith("ANTIPHON_")]:
        monkeypatch.delenv(name)
    for name, value in environment(container_of(found), fields=fields).items():
        if name.startswith("ANTIPHON_"):
            monkeypatch.setenv(name, value)
    return load_settings(settings_class(service))


@pytest.mark.parametrize(("chart", "cell"), CELLS)
def test_every_rendered_environment_is_accepted(monkeypatch: pytest.MonkeyPatch, chart: str, cell: str) -> None:
    objects = rendered("helm-4", chart, cell)
    for found in workloads(objects, "Deployment", "LeaderWorkerSet"):
        if (service := component(found).removesuffix("-follower")) not in SERVICES:
            continue
        settings = load(monkeypatch, service, found)
        ports = {port["name"]: port["containerPort"] for port in container_of(found)["ports"]}
        assert settings.grpc_port == ports["grpc"]
        assert settings.metrics_port == ports["metrics"]
        assert settings.grpc_host == settings.metrics_host == "0.0.0.0"
        assert settings.advertise_host == "10.1.2.3"
        assert container_of(found)["command"] == ["python", "-m", f"services.{service}"]
        if service in ("gateway", "control"):
            assert settings.http_port == ports["http"]
        elif service != "scaler":
            mounts = {mount["mountPath"] for mount in container_of(found)["volumeMounts"]}
            assert settings.model.rpartition("/")[0] in mounts


@pytest.mark.parametrize(
    ("cell", "url", "username"),
    [
        ("as it is", "redis://rel-redis:6379/0", ""),
        (
            "Redis over TLS, Ingress, checked download",
            "rediss://redis.example:6380/0?ssl_ca_certs=/redis-tls/ca.crt",
            "antiphon",
        ),
        ("Sentinel, Gateway API", "redis+sentinel://s-0.redis:26379,s-1.redis:26379,s-2.redis:26379/queues/0", ""),
        (
            "Redis Cluster over TLS, tenants",
            "rediss+cluster://c-0.redis:6379,c-1.redis:6380,c-2.redis:6380?ssl_ca_certs=/redis-tls/ca.crt",
            "antiphon",
        ),
        ("a Redis URL in a Secret, placed pods", URL_IN_SECRET, "antiphon"),
    ],
)
def test_redis_is_reached_by_a_url_and_a_password_beside_it(
    monkeypatch: pytest.MonkeyPatch, cell: str, url: str, username: str
) -> None:
    for found in of_kind(rendered("helm-4", "antiphon", cell), "Deployment"):
        if (service := component(found)) in STACK:
            settings = load(monkeypatch, service, found)
            assert settings.redis_url == url
            assert settings.redis_username == username
            assert settings.redis_password.get_secret_value() == SECRET


def test_tenants_come_from_their_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = of_kind(rendered("helm-4", "antiphon", "Redis Cluster over TLS, tenants"), "Deployment")
    (found,) = (item for item in objects if component(item) == "gateway")
    settings = load(monkeypatch, "gateway", found)
    assert settings.tenants_file == Path("/tenants/tenants.json")
    assert settings.api_key.get_secret_value() == ""
    assert settings.metrics_tenants == 20
    # The whole folder: a file that is mounted by its subPath never changes.
    (mount,) = [mount for mount in container_of(found)["volumeMounts"] if mount["name"] == "tenants"]
    assert mount == {"name": "tenants", "mountPath": "/tenants", "readOnly": True}
    (volume,) = [volume for volume in found["spec"]["template"]["spec"]["volumes"] if volume["name"] == "tenants"]
    assert volume["secret"] == {"secretName": "tenants", "items": [{"key": "tenant-keys", "path": "tenants.json"}]}


def test_workers_of_a_stack_agree_on_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = rendered("helm-4", "antiphon", "small checkpoint on CPUs, no policies")
    workers = [
        found for found in of_kind(objects, "Deployment") if component(found) in ("preprocess", "thinker", "talker")
    ]
    read = [load(monkeypatch, component(found), found) for found in workers]
    assert {(s.model, s.name, s.model_kind, s.max_model_len) for s in read} == {
        ("/models/Tiny-Qwen3-Omni-Instruct", "tiny", "instruct", 4096)
    }
