"""The stack's own Redis, run with its rendered arguments, and its exporter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from services.common.redis_client import connect, redis_call
from services.common.redis_url import parse_redis_url
from tests.helm.render import Object, component, container_of, of_kind, pod_of, rendered
from tests.helm.test_environment import SECRET, environment
from tests.helm.test_rendered_services import HOST, running_redis

CELL = "OpenShift, mirrored images, a measured Redis"
EXPORTER_PORT = 9121


def deployment(name: str, cell: str = "as it is") -> Object:
    (found,) = [item for item in of_kind(rendered("helm-4", "antiphon", cell), "Deployment") if component(item) == name]
    return found


async def test_redis_has_a_memory_limit_and_evicts_nothing(tmp_path: Path) -> None:
    async with running_redis(deployment("redis"), tmp_path) as port:
        with Redis(host=HOST, port=port, password=SECRET, decode_responses=True) as client:
            asked: Any = client.config_get("maxmemory*")
    assert asked["maxmemory-policy"] == "noeviction"
    limit = container_of(deployment("redis"))["resources"]["limits"]["memory"]
    assert limit == "640Mi"
    assert int(asked["maxmemory"]) == 640 * 2**20 * 3 // 4


@pytest.mark.parametrize("password", ["/+=@%#?&: $x", "a'b\"c\\d", "ü€"])
async def test_a_password_of_any_characters_works(tmp_path: Path, password: str) -> None:
    async with running_redis(deployment("redis"), tmp_path, password) as port:
        told = environment(container_of(deployment("gateway")), secret=password)
        url = re.sub(r"//[^/]+/", f"//{HOST}:{port}/", told["ANTIPHON_REDIS_URL"])
        client = connect(parse_redis_url(url, "", told["ANTIPHON_REDIS_PASSWORD"]))
        try:
            async with redis_call():
                assert await client.ping()
        finally:
            await client.aclose()


def test_the_exporter_reads_redis_with_its_password_and_prometheus_reads_it() -> None:
    objects = rendered("helm-4", "antiphon", CELL)
    redis, exporter = pod_of(deployment("redis", CELL))["containers"]
    environ = {entry["name"]: entry for entry in exporter["env"]}
    assert environ["REDIS_ADDR"]["value"] == "redis://127.0.0.1:6379"
    (password,) = [entry for entry in redis["env"] if entry["name"] == "REDIS_PASSWORD"]
    assert environ["REDIS_PASSWORD"] == password
    assert exporter["ports"] == [{"name": "metrics", "containerPort": EXPORTER_PORT}]
    (policy,) = [item for item in of_kind(objects, "NetworkPolicy") if component(item) == "redis"]
    scraped = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == EXPORTER_PORT]
    assert [rule["from"] for rule in scraped] == [
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    ]
    (monitor,) = [item for item in of_kind(objects, "ServiceMonitor") if component(item) == "redis"]
    assert monitor["spec"]["selector"]["matchLabels"]["antiphon/job"] == "antiphon-redis"
    (gateways,) = [item for item in of_kind(objects, "ServiceMonitor") if component(item) == "gateway"]
    assert monitor["spec"]["endpoints"] == gateways["spec"]["endpoints"]


def test_the_exporter_is_off_by_default() -> None:
    assert len(pod_of(deployment("redis"))["containers"]) == 1
    services = of_kind(rendered("helm-4", "antiphon", "as it is"), "Service")
    assert [item["metadata"]["name"] for item in services if component(item) == "redis"] == ["rel-redis"]
