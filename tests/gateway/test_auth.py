"""API keys, tenants and their settings."""

from __future__ import annotations

import hashlib
import json

import pytest

from services.common.errors import Unauthenticated
from services.common.settings import SettingsError, load_settings
from services.gateway.auth import ApiKeys, Tenant
from services.gateway.settings import GatewaySettings

DEFAULT = Tenant("default", "default")


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize("header", [b"Bearer secret", b"bearer secret", b"Bearer  secret "])
def test_the_right_key_passes(header: bytes) -> None:
    assert ApiKeys("secret").tenant_of(header) == DEFAULT


@pytest.mark.parametrize(
    "header", [None, b"", b"secret", b"Basic secret", b"Bearer", b"Bearer secre", b"Bearer secret2"]
)
def test_anything_else_does_not(header: bytes | None) -> None:
    with pytest.raises(Unauthenticated):
        ApiKeys("secret").tenant_of(header)


def test_without_a_key_everybody_passes() -> None:
    assert ApiKeys("").tenant_of(None) == DEFAULT


def test_each_key_is_its_tenant_s() -> None:
    keys = ApiKeys("secret", {"acme": [sha256("a"), sha256("a-next")], "beta": [sha256("b")]})
    assert keys.tenant_of(b"Bearer a") == keys.tenant_of(b"Bearer a-next") == Tenant("acme", "acme")
    assert keys.tenant_of(b"Bearer b") == Tenant("beta", "beta")
    assert keys.tenant_of(b"Bearer secret") == DEFAULT
    for wrong in (b"Bearer c", b"Basic a", b"Bearer " + sha256("a").encode(), None):
        with pytest.raises(Unauthenticated):
            keys.tenant_of(wrong)


def test_without_a_default_key_only_tenants_pass() -> None:
    keys = ApiKeys("", {"acme": [sha256("a")]})
    assert keys.tenant_of(b"Bearer a").name == "acme"
    for wrong in (b"Bearer ", b"Bearer", None):
        with pytest.raises(Unauthenticated):
            keys.tenant_of(wrong)


def test_the_default_tenant_may_have_keys_by_their_hash() -> None:
    keys = ApiKeys("secret", {"default": [sha256("next")]}, shown_tenants=0)
    assert keys.tenant_of(b"Bearer next") == keys.tenant_of(b"Bearer secret") == DEFAULT
    assert keys.labels == {"default"}


@pytest.mark.parametrize("shown", [0, 1, 3, 50])
def test_metrics_have_the_same_bounded_tenants_on_all_gateways(shown: int) -> None:
    names = [f"tenant-{number}" for number in range(10)]
    keys = ApiKeys("secret", {name: [sha256(name)] for name in names}, shown_tenants=shown)
    told = [keys.tenant_of(f"Bearer {name}".encode()) for name in names]
    assert [tenant.name for tenant in told] == names
    assert [tenant.label for tenant in told] == names[:shown] + ["other"] * max(0, len(names) - shown)
    assert keys.labels == {"default"} | {tenant.label for tenant in told}


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"TENANT_KEYS": json.dumps({"acme": [sha256("a")]}), "ALLOW_ANONYMOUS": "true"}, "contradict"),
        ({"TENANT_KEYS": json.dumps({"acme": [sha256("a")]}), "API_KEY": "a"}, "a tenant's key"),
        ({"TENANT_KEYS": json.dumps({"a": [sha256("x")], "b": [sha256("x")]})}, "tenants 1 and 2 have the same key"),
        ({"TENANT_KEYS": json.dumps({"acme": []})}, "tenant 1 has no key"),
        ({"TENANT_KEYS": json.dumps({"a": [sha256("x")], "other": [sha256("y")]})}, "tenant 2: 'other'"),
        ({"TENANT_KEYS": json.dumps({"Acme & Co": [sha256("a")]})}, "tenant 1: a name"),
        ({"TENANT_KEYS": "acme"}, "ANTIPHON_TENANT_KEYS: "),
        ({"API_KEY": "k", "METRICS_TENANTS": "1001"}, "ANTIPHON_METRICS_TENANTS"),
        ({}, "ANTIPHON_API_KEY is required"),
        ({"API_KEY": "k", "ALLOW_ANONYMOUS": "true"}, "contradict"),
        ({"API_KEY": "k", "HTTP_PORT": "http"}, "ANTIPHON_HTTP_PORT"),
        ({"API_KEY": "k", "HTP_PORT": "1"}, "ANTIPHON_HTP_PORT: unknown setting"),
        ({"API_KEY": "k", "MAX_WAITING": "5"}, "ANTIPHON_MAX_WAITING_PER_TENANT"),
    ],
)
def test_settings_that_do_not_fit_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], problem: str
) -> None:
    monkeypatch.setenv("ANTIPHON_REDIS_URL", "redis://127.0.0.1:1")
    for name, value in variables.items():
        monkeypatch.setenv(f"ANTIPHON_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings(GatewaySettings)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        '{"acme": ["very-secret"]}',
        '{"very-secret": ["acme"]}',
        '{"VERY-SECRET": ["acme"]}',
        '{"very-secret": "acme"}',
        '["very-secret"]',
        "very-secret",
    ],
)
def test_a_key_in_the_place_of_a_hash_or_a_name_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ANTIPHON_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("ANTIPHON_TENANT_KEYS", value)
    with pytest.raises(SettingsError) as caught:
        load_settings(GatewaySettings)
    assert "tenant_keys" in str(caught.value).lower()
    assert "very-secret" not in str(caught.value).lower()


def test_the_key_is_not_shown_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("ANTIPHON_API_KEY", "very-secret")
    assert "very-secret" not in repr(load_settings(GatewaySettings))
