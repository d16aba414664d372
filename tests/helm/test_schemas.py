"""Every object matches the strict schemas of Kubernetes 1.29 to 1.37, KEDA and the Prometheus operator."""

from __future__ import annotations

import functools
import json
from typing import Any, cast

import pytest
import referencing
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as operator
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import schema_contents

from tests.helm.cells import CELLS
from tests.helm.render import Object, of_kind, rendered

KUBERNETES = [f"1.{minor}" for minor in range(29, 38)]
CUSTOM = {
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): operator.ServiceMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): operator.PrometheusRule,
}
# No package has the schemas of these; test_objects and test_groups check the fields that the charts use.
WITHOUT_SCHEMA = {
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"),
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
}


@functools.cache
def unique_objects() -> list[Object]:
    """Return each distinct object of all cells once."""
    found = {
        json.dumps(item, sort_keys=True): item for chart, cell in CELLS for item in rendered("helm-4", chart, cell)
    }
    return list(found.values())


def identity(item: Object) -> tuple[str, str]:
    return item["apiVersion"], item["kind"]


@functools.cache
def definitions(version: str) -> referencing.Registry[Any]:
    contents = schema_contents(f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json", version)
    return referencing.Resource.from_contents(contents) @ referencing.Registry()


@functools.cache
def validator(version: str, api_version: str, kind: str) -> Draft202012Validator:
    group, _, name = api_version.rpartition("/")
    where = f"{group.partition('.')[0]}-{name}" if group else name
    path = f"kubernetes-json-schema/v{version}.0-local-strict/{kind.lower()}-{where}.json"
    schema = schema_contents(path, version)
    return Draft202012Validator(schema, registry=referencing.Resource.from_contents(schema) @ definitions(version))


@functools.cache
def custom_validator(api_version: str, kind: str) -> Draft202012Validator:
    schema = CUSTOM[api_version, kind].model_json_schema(by_alias=True)
    _close(schema)
    return Draft202012Validator(schema)


def _close(schema: Any) -> None:
    """Refuse unknown keys where the schema allows any."""
    if isinstance(schema, dict):
        given = cast("dict[str, Any]", schema)
        if "properties" in given:
            given.setdefault("additionalProperties", False)
        for value in given.values():
            _close(value)
    elif isinstance(schema, list):
        for value in cast("list[Any]", schema):
            _close(value)


def test_every_kind_has_a_schema() -> None:
    kinds = {identity(item) for item in unique_objects()}
    unknown = {kind for kind in kinds if "." in kind[0] and not kind[0].endswith(("k8s.io/v1", "apps/v1"))}
    assert unknown <= set(CUSTOM) | WITHOUT_SCHEMA
    assert kinds >= set(CUSTOM) | WITHOUT_SCHEMA  # and the matrix renders all of them


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_every_object(version: str) -> None:
    for item in unique_objects():
        if identity(item) not in set(CUSTOM) | WITHOUT_SCHEMA:
            problems = [error.message for error in validator(version, *identity(item)).iter_errors(item)]
            assert not problems, (item["kind"], item["metadata"]["name"], problems)


def test_operators_accept_every_custom_object() -> None:
    for item in unique_objects():
        if identity(item) in CUSTOM:
            problems = [
                f"{list(error.path)}: {error.message}" for error in custom_validator(*identity(item)).iter_errors(item)
            ]
            assert not problems, (item["kind"], item["metadata"]["name"], problems)


@pytest.mark.parametrize(
    ("kind", "path"), [("Deployment", ("template", "spec", "hostnames")), ("ScaledObject", ("trigger",))]
)
def test_a_misspelled_key_would_be_found(kind: str, path: tuple[str, ...]) -> None:
    item = json.loads(json.dumps(of_kind(tuple(unique_objects()), kind)[0]))
    place = item["spec"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = "x"
    check = custom_validator(*identity(item)) if identity(item) in CUSTOM else validator("1.37", *identity(item))
    assert any(path[-1] in error.message for error in check.iter_errors(item))
