"""The control plane's chart: its databases, its jobs, and how the umbrella points the gateways to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.control.settings import ControlSettings
from tests.helm.cells import CELLS, Values
from tests.helm.render import (
    HELM,
    NAMESPACE,
    RELEASE,
    Object,
    component,
    container_of,
    helm,
    of_kind,
    pod_of,
    read_objects,
    rendered,
    template,
)
from tests.helm.test_contradictions import check
from tests.helm.test_environment import DATABASE_URL_IN_SECRET, SECRET, load
from tests.helm.test_refusals import merged, nested

POSTGRESQL_CELL = "instruct 60 s on H100, KEDA, monitored, from zero"
URL_CELL = "OpenShift, mirrored images, a measured Redis"
SQLITE_CELL = "no gateway, a control plane on SQLite"
ON: Values = nested("control.enabled", True)
ON_POSTGRESQL = merged(ON, nested("control.database.host", "db.example"))


def objects_of(values: Values, chart: str = "antiphon") -> tuple[Object, ...]:
    ended = template("helm-4", chart, values)
    assert ended.returncode == 0, ended.stderr
    return read_objects(ended.stdout)


def one(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    (found,) = [item for item in of_kind(objects, kind) if component(item) == name]
    return found


def entry(found: Object, name: str) -> Object:
    (only,) = [entry for entry in container_of(found)["env"] if entry["name"] == name]
    return only


def loaded(monkeypatch: pytest.MonkeyPatch, found: Object) -> ControlSettings:
    settings = load(monkeypatch, "control", found)
    assert isinstance(settings, ControlSettings)
    return settings


# What is wrong → the values, and what the message must name.
BROKEN: dict[str, tuple[Values, tuple[str, ...]]] = {
    "two pods on SQLite": (merged(ON, nested("control.replicas", 2)), ("control.replicas", "control.database.host")),
    "a URL and a host": (
        merged(ON_POSTGRESQL, nested("control.database.urlSecret.name", "url")),
        ("control.database.urlSecret", "database.host"),
    ),
    "a URL and a TLS mode": (
        merged(ON, nested("control.database", {"urlSecret": {"name": "url"}, "tls": {"mode": "require"}})),
        ("control.database.tls.mode", "sslmode"),
    ),
    "an authority without TLS": (
        merged(ON_POSTGRESQL, nested("control.database.tls", {"mode": "disable", "caSecret": {"name": "ca"}})),
        ("control.database.tls.caSecret", "disable"),
    ),
    "a password of SQLite": (
        merged(ON, nested("control.database.passwordSecret.name", "database")),
        ("control.database.passwordSecret.name", "database.host"),
    ),
    "an authority of SQLite": (
        merged(ON, nested("control.database.tls.caSecret.name", "ca")),
        ("control.database.tls.caSecret.name", "database.host"),
    ),
    "a volume of SQLite beside PostgreSQL": (
        merged(ON_POSTGRESQL, nested("control.sqlite.existingClaim", "mine")),
        ("control.sqlite.existingClaim", "control.database"),
    ),
    "a port with the host": (merged(ON, nested("control.database.host", "db.example:5432")), ("database", "host")),
    "a user that a URL must escape": (merged(ON_POSTGRESQL, nested("control.database.user", "a@b")), ("user",)),
    "an unknown TLS mode": (merged(ON_POSTGRESQL, nested("control.database.tls.mode", "on")), ("mode",)),
    "an HTTP port that is gRPC's": (merged(ON, nested("control.port", 9000)), ("control.port", "9000")),
    "a setting that the chart sets": (
        merged(ON, nested("control.settings.migrate_on_start", False)),
        ("control.settings.migrate_on_start",),
    ),
    "a URL in plain values": (
        merged(ON_POSTGRESQL, nested("control.settings.database_url", "postgresql://a:secret@b/c")),
        ("control.settings.database_url",),
    ),
    "a key in plain values": (
        merged(ON, nested("control.settings.bootstrap_admin_key", "x" * 24)),
        ("control.settings.bootstrap_admin_key",),
    ),
    "a token of events in plain values": (
        merged(ON, nested("control.settings", {"events_url": "https://meters.example", "events_token": "secret"})),
        ("control.settings.events_token",),
    ),
    "a token of events that nobody gets": (
        merged(ON, nested("control.eventsToken.secret.name", "meters")),
        ("control.eventsToken.secret.name", "events_url"),
    ),
    "a spool that does not fit": (
        merged(ON, nested("gateway.cacheSize", "100Mi")),
        ("gateway.cacheSize", "usage_spool_bytes"),
    ),
    "anonymous access": (
        merged(ON, nested("gateway.apiKey.allowAnonymous", True)),
        ("gateway.apiKey.allowAnonymous", "control.enabled"),
    ),
    "tenants of a file": (
        merged(ON, nested("gateway.apiKey.tenantsSecret.name", "tenants")),
        ("gateway.apiKey.tenantsSecret.name", "control.enabled"),
    ),
    "two control planes": (
        merged(ON, nested("gateway.control", {"address": "other:9000", "tokenSecret": {"name": "token"}})),
        ("gateway.control.address", "control.enabled"),
    ),
    "an address without a token": (
        nested("gateway.control.address", "other:9000"),
        ("gateway.control.tokenSecret.name", "control.address"),
    ),
    "a token without an address": (
        nested("gateway.control.tokenSecret.name", "token"),
        ("gateway.control.address", "control.enabled=true"),
    ),
    "an address with a scheme": (nested("gateway.control.address", "http://other:9000"), ("control", "address")),
    "a name of another service": (
        merged(ON, nested("control.fullnameOverride", "rel-gateway")),
        ("fullnameOverride", "control"),
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_values_that_contradict_are_refused_by_name(what: str) -> None:
    values, named = BROKEN[what]
    check(template("helm-4", "antiphon", values), named)


def test_it_is_off_by_default() -> None:
    objects = rendered("helm-4", "antiphon", "as it is")
    assert not [item for item in objects if component(item).startswith("control")]
    env = {entry["name"] for entry in container_of(one(objects, "Deployment", "gateway"))["env"]}
    assert not [name for name in env if "CONTROL" in name]


def test_sqlite_is_one_pods_file_on_a_volume_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = rendered("helm-4", "antiphon", SQLITE_CELL)
    found = one(objects, "Deployment", "control")
    assert found["spec"]["replicas"] == 1
    assert found["spec"]["strategy"] == {"type": "Recreate"}
    settings = loaded(monkeypatch, found)
    assert settings.database.is_sqlite
    assert settings.migrate_on_start
    mounts = {mount["mountPath"]: mount["name"] for mount in container_of(found)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(found)["volumes"]}
    volume = volumes[mounts[str(Path(settings.database.url.database or "").parent)]]
    claim = one(objects, "PersistentVolumeClaim", "control")
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert not [item for item in objects if component(item) == "control-migrate"]


def test_a_claim_of_ones_own_holds_sqlite() -> None:
    objects = objects_of(nested("sqlite.existingClaim", "restored"), "control")
    assert not of_kind(objects, "PersistentVolumeClaim")
    volumes = pod_of(one(objects, "Deployment", "control"))["volumes"]
    assert {"name": "database", "persistentVolumeClaim": {"claimName": "restored"}} in volumes


@pytest.mark.parametrize(
    ("chart", "cell", "url", "certificates"),
    [
        (
            "antiphon",
            POSTGRESQL_CELL,
            "postgresql://antiphon@db.example:5432/antiphon?sslmode=verify-full",
            "/database-tls/ca.crt",
        ),
        ("antiphon", URL_CELL, DATABASE_URL_IN_SECRET, ""),
        (
            "control",
            "PostgreSQL, settings, Secrets of one's own",
            "postgresql://antiphon@db.example:5432/antiphon?sslmode=require",
            "",
        ),
    ],
)
def test_a_job_migrates_the_postgresql_that_the_pods_use(
    monkeypatch: pytest.MonkeyPatch, chart: str, cell: str, url: str, certificates: str
) -> None:
    objects = rendered("helm-4", chart, cell)
    pod, job = one(objects, "Deployment", "control"), one(objects, "Job", "control-migrate")
    servers, migration = loaded(monkeypatch, pod), loaded(monkeypatch, job)
    assert container_of(job)["command"] == [*container_of(pod)["command"], "migrate"]
    assert container_of(job)["image"] == container_of(pod)["image"]
    assert servers.database_url == migration.database_url == url
    assert servers.database == migration.database
    assert servers.database.url.password == (SECRET if cell == POSTGRESQL_CELL else None)
    assert servers.migrate_on_start is False
    for found in (pod, job):
        given = {entry["name"]: entry.get("value") for entry in container_of(found)["env"]}
        assert given.get("PGSSLROOTCERT", "") == certificates
        if certificates:
            assert str(Path(certificates).parent) in {
                mount["mountPath"] for mount in container_of(found)["volumeMounts"]
            }
    assert pod["spec"]["strategy"] != {"type": "Recreate"}
    assert "control" not in {component(item) for item in of_kind(objects, "PersistentVolumeClaim")}


@pytest.mark.parametrize(("mode", "checked"), [("", True), ("verify-ca", True), ("require", False), ("disable", False)])
def test_the_systems_authorities_are_used_where_certificates_are_checked(mode: str, checked: bool) -> None:
    values: Values = {"database": {"host": "db.example", "tls": {"mode": mode}}}
    pod = one(objects_of(values, "control"), "Deployment", "control")
    given = {entry["name"]: entry.get("value") for entry in container_of(pod)["env"]}
    assert given.get("PGSSLROOTCERT") == ("/etc/ssl/certs/ca-certificates.crt" if checked else None)


@pytest.mark.parametrize("cell", [POSTGRESQL_CELL, URL_CELL])
def test_hooks_run_in_their_order(cell: str) -> None:
    objects = rendered("helm-4", "antiphon", cell)
    weights: dict[tuple[str, str], int] = {}
    for item in objects:
        if component(item) in ("control-auth", "control-migrate"):
            annotations = item["metadata"]["annotations"]
            assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
            assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
            weights[component(item), item["kind"]] = int(annotations["helm.sh/hook-weight"])
    auth, migration = weights.pop(("control-auth", "Job")), weights.pop(("control-migrate", "Job"))
    assert max(weights.values()) < auth < migration, "the migration reads the Secret that the other job makes"
    accounts = {
        item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount") if "annotations" in item["metadata"]
    }
    assert pod_of(one(objects, "Job", "control-migrate"))["serviceAccountName"] in accounts


def test_gateways_get_the_address_and_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = rendered("helm-4", "antiphon", POSTGRESQL_CELL)
    gateway, control = (one(objects, "Deployment", name) for name in ("gateway", "control"))
    settings = load(monkeypatch, "gateway", gateway)
    host, _, port = settings.control_address.rpartition(":")
    (service,) = [item for item in of_kind(objects, "Service") if item["metadata"]["name"] == "rel-control"]
    assert host == f"{service['metadata']['name']}.{NAMESPACE}"
    assert int(port) in {port["port"] for port in service["spec"]["ports"]}
    shown, expected = entry(gateway, "ANTIPHON_CONTROL_TOKEN"), entry(control, "ANTIPHON_GATEWAY_TOKEN")
    assert shown["valueFrom"] == expected["valueFrom"]
    mounts = {mount["name"] for mount in container_of(gateway)["volumeMounts"] if not mount.get("readOnly")}
    (volume,) = [mount for mount in container_of(gateway)["volumeMounts"] if mount["mountPath"] == "/cache"]
    assert str(settings.control_cache_file).startswith(f"{volume['mountPath']}/")
    assert volume["name"] in mounts


def test_a_gateway_may_use_a_control_plane_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    values: Values = {
        "apiKey": {"secret": {"name": ""}},
        "control": {
            "address": "control.other:9443",
            "tokenSecret": {"name": "token", "key": "t"},
            "cacheClaim": "tenants",
        },
    }
    objects = objects_of(values, "gateway")
    gateway = one(objects, "Deployment", "gateway")
    settings = load(monkeypatch, "gateway", gateway)
    assert settings.control_address == "control.other:9443"
    assert entry(gateway, "ANTIPHON_CONTROL_TOKEN")["valueFrom"] == {"secretKeyRef": {"name": "token", "key": "t"}}
    assert settings.control_cache_file == Path("/tenant-cache/tenants.pb")
    assert {"name": "tenant-cache", "mountPath": "/tenant-cache"} in container_of(gateway)["volumeMounts"]
    claim = {"name": "tenant-cache", "persistentVolumeClaim": {"claimName": "tenants"}}
    assert claim in pod_of(gateway)["volumes"]
    policy = one(objects, "NetworkPolicy", "gateway")
    assert {"ports": [{"port": 9443, "protocol": "TCP"}]} in policy["spec"]["egress"]


def test_policies_admit_only_whom_the_values_name() -> None:
    peers: Any = {
        name: [{"ipBlock": {"cidr": f"10.{n}.0.0/16"}}] for n, name in enumerate(("operators", "gateways", "database"))
    }
    values = nested("global.networkPolicy", peers) | {"database": {"host": "db.example", "port": 6432}}
    spec = one(objects_of(values, "control"), "NetworkPolicy", "control")["spec"]
    assert {"from": peers["operators"], "ports": [{"port": 8902, "protocol": "TCP"}]} in spec["ingress"]
    assert {"from": peers["gateways"], "ports": [{"port": 9000, "protocol": "TCP"}]} in spec["ingress"]
    assert {"to": peers["database"], "ports": [{"port": 6432, "protocol": "TCP"}]} in spec["egress"]
    closed = one(rendered("helm-4", "control", "as it is"), "NetworkPolicy", "control")["spec"]
    assert 8902 not in {port["port"] for rule in closed["ingress"] for port in rule["ports"]}
    assert {"port": 5432, "protocol": "TCP"} not in [port for rule in closed["egress"] for port in rule["ports"]]


@pytest.mark.parametrize("cell", [SQLITE_CELL, POSTGRESQL_CELL])
def test_notes_say_where_the_data_is(cell: str) -> None:
    where = (RELEASE, str(HELM / "antiphon"), "--namespace", NAMESPACE)
    ended = helm("helm-4", "install", "--dry-run=client", *where, values=CELLS["antiphon", cell])
    notes = ended.stdout.partition("NOTES:")[2]
    assert ("SQLite on the claim rel-control-database" in notes) == (cell == SQLITE_CELL)
    assert ("in PostgreSQL" in notes) == (cell == POSTGRESQL_CELL)
    assert "get secret rel-control-auth -o jsonpath='{.data.admin-key}'" in notes
