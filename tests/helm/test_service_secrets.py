"""Secrets that services read, and the folder of the spool of usage records."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helm.cells import Values
from tests.helm.render import container_of, pod_of, rendered
from tests.helm.test_control import ON, POSTGRESQL_CELL, entry, objects_of, one
from tests.helm.test_environment import SECRET, load
from tests.helm.test_refusals import merged, nested

MIB = 1024**2


def test_the_receiver_of_events_gets_a_token_from_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = rendered("helm-4", "antiphon", POSTGRESQL_CELL)
    control = one(objects, "Deployment", "control")
    reference = {"secretKeyRef": {"name": "meters", "key": "events-token"}}
    assert entry(control, "ANTIPHON_EVENTS_TOKEN")["valueFrom"] == reference
    settings = load(monkeypatch, "control", control)
    assert (settings.events_url, settings.events_token.get_secret_value()) == ("https://meters.example/events", SECRET)
    migration = container_of(one(objects, "Job", "control-migrate"))["env"]
    assert "ANTIPHON_EVENTS_TOKEN" not in {each["name"] for each in migration}


def test_client_secrets_may_have_a_signing_key_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = one(
        objects_of(nested("clientSecretSigningKey.secret.name", "signing"), "gateway"), "Deployment", "gateway"
    )
    reference = {"secretKeyRef": {"name": "signing", "key": "signing-key"}}
    assert entry(gateway, "ANTIPHON_CLIENT_SECRET_SIGNING_KEY")["valueFrom"] == reference
    assert load(monkeypatch, "gateway", gateway).client_secret_root == SECRET.encode()
    gateway = one(rendered("helm-4", "antiphon", "as it is"), "Deployment", "gateway")
    assert load(monkeypatch, "gateway", gateway).client_secret_root == b""


def test_realtime_sessions_are_kept_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = objects_of(nested("realtimeSessionKey.secret.name", "sealing"), "gateway")
    gateway = one(objects, "Deployment", "gateway")
    reference = {"secretKeyRef": {"name": "sealing", "key": "session-key"}}
    assert entry(gateway, "ANTIPHON_REALTIME_SESSION_KEY")["valueFrom"] == reference
    assert load(monkeypatch, "gateway", gateway).realtime_session_key.get_secret_value() == SECRET
    gateway = one(rendered("helm-4", "antiphon", "as it is"), "Deployment", "gateway")
    assert not load(monkeypatch, "gateway", gateway).realtime_session_key.get_secret_value()


@pytest.mark.parametrize(
    ("values", "folder"),
    [
        ({}, None),
        (ON, Path("/cache/usage-spool")),
        (nested("gateway.settings.usage_records", "on"), Path("/cache/usage-spool")),
        (merged(ON, nested("gateway.settings.usage_spool_dir", "/mine")), Path("/mine")),
    ],
)
def test_the_spool_outlives_the_container_where_there_are_records(
    monkeypatch: pytest.MonkeyPatch, values: Values, folder: Path | None
) -> None:
    gateway = one(objects_of(values), "Deployment", "gateway")
    assert load(monkeypatch, "gateway", gateway).usage_spool_dir == folder


def test_the_spool_fits_into_its_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    large = merged(ON, nested("gateway", {"cacheSize": "600Mi", "settings": {"usage_spool_bytes": 300 * MIB}}))
    gateway = one(objects_of(large), "Deployment", "gateway")
    settings = load(monkeypatch, "gateway", gateway)
    mounts = {mount["mountPath"]: mount["name"] for mount in container_of(gateway)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(gateway)["volumes"]}
    volume = volumes[mounts[str(settings.usage_spool_dir.parent)]]
    assert volume["emptyDir"] == {"sizeLimit": "600Mi"}
    assert settings.usage_spool_bytes == 300 * MIB


def test_the_object_store_has_its_credentials_from_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    store: Values = {"url": "s3://bucket/of-us", "endpoint": "http://minio:9000", "secret": {"name": "store"}}
    gateway = one(objects_of(merged(ON, nested("gateway.objectStore", store))), "Deployment", "gateway")
    reference = {"secretKeyRef": {"name": "store", "key": "secret-key"}}
    assert entry(gateway, "ANTIPHON_OBJECT_STORE_SECRET")["valueFrom"] == reference
    settings = load(monkeypatch, "gateway", gateway)
    assert (settings.object_store_url, settings.object_store_endpoint) == ("s3://bucket/of-us", "http://minio:9000")
    assert (settings.object_store_key, settings.object_store_secret.get_secret_value()) == (SECRET, SECRET)
    for endpoint, port in (("http://minio:9000", 9000), ("https://s3.example", 443), ("", 443)):
        policy = one(
            objects_of(merged(ON, nested("gateway.objectStore", {"url": "s3://bucket", "endpoint": endpoint}))),
            *("NetworkPolicy", "gateway"),
        )
        assert {"ports": [{"port": port, "protocol": "TCP"}]} in policy["spec"]["egress"]


def test_the_object_store_may_be_a_claim_that_gateways_share(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = one(objects_of(merged(ON, nested("gateway.objectStore.claim", "objects"))), "Deployment", "gateway")
    assert load(monkeypatch, "gateway", gateway).object_store_url == "file:///objects"
    mounts = {mount["mountPath"]: mount["name"] for mount in container_of(gateway)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(gateway)["volumes"]}
    assert volumes[mounts["/objects"]]["persistentVolumeClaim"] == {"claimName": "objects"}
