"""API keys, tenants and their settings."""

from __future__ import annotations

import hashlib
import json

import pytest

from services.common.errors import Unauthenticated
from services.common.queues import TenantTerms
from services.common.settings import SettingsError, load_settings
from services.gateway.auth import ApiKeys
from services.gateway.gateway import queue_limits, queue_terms
from services.gateway.settings import GatewaySettings
from services.gateway.turn.intent import Principal

DEFAULT = Principal("default", "default")


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize("header", [b"Bearer secret", b"bearer secret", b"Bearer  secret "])
def test_the_right_key_passes(header: bytes) -> None:
    assert ApiKeys("secret").principal_of(header) == DEFAULT


@pytest.mark.parametrize(
    "header", [None, b"", b"secret", b"Basic secret", b"Bearer", b"Bearer secre", b"Bearer secret2"]
)
def test_anything_else_does_not(header: bytes | None) -> None:
    with pytest.raises(Unauthenticated):
        ApiKeys("secret").principal_of(header)


def test_without_a_key_everybody_passes() -> None:
    assert ApiKeys("").principal_of(None) == DEFAULT


def test_each_key_is_its_tenant_s() -> None:
    keys = ApiKeys("secret", {"acme": [sha256("a"), sha256("a-next")], "beta": [sha256("b")]})
    assert keys.principal_of(b"Bearer a") == keys.principal_of(b"Bearer a-next") == Principal("acme", "acme")
    assert keys.principal_of(b"Bearer b") == Principal("beta", "beta")
    assert keys.principal_of(b"Bearer secret") == DEFAULT
    for wrong in (b"Bearer c", b"Basic a", b"Bearer " + sha256("a").encode(), None):
        with pytest.raises(Unauthenticated):
            keys.principal_of(wrong)


def test_without_a_default_key_only_tenants_pass() -> None:
    keys = ApiKeys("", {"acme": [sha256("a")]})
    assert keys.principal_of(b"Bearer a").tenant == "acme"
    for wrong in (b"Bearer ", b"Bearer", None):
        with pytest.raises(Unauthenticated):
            keys.principal_of(wrong)


def test_the_default_tenant_may_have_keys_by_their_hash() -> None:
    keys = ApiKeys("secret", {"default": [sha256("next")]}, shown_tenants=0)
    assert keys.principal_of(b"Bearer next") == keys.principal_of(b"Bearer secret") == DEFAULT
    assert keys.labels == {"default"}


@pytest.mark.parametrize("shown", [0, 1, 3, 50])
def test_metrics_have_the_same_bounded_tenants_on_all_gateways(shown: int) -> None:
    names = [f"tenant-{number}" for number in range(10)]
    keys = ApiKeys("secret", {name: [sha256(name)] for name in names}, shown_tenants=shown)
    told = [keys.principal_of(f"Bearer {name}".encode()) for name in names]
    assert [tenant.tenant for tenant in told] == names
    assert [tenant.label for tenant in told] == names[:shown] + ["other"] * max(0, len(names) - shown)
    assert keys.labels == {"default"} | {tenant.label for tenant in told}


def test_ten_thousand_tenants_have_keys_of_their_own() -> None:
    names = [f"tenant-{number}" for number in range(10_000)]
    keys = ApiKeys("secret", {name: [sha256(name)] for name in names})
    assert [keys.principal_of(f"Bearer {name}".encode()).tenant for name in names] == names
    assert len(keys.labels) == 50 + 2  # of those with series of their own, the default and the others


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
        (
            {"API_KEY": "k", "CLIENT_SECRET_SIGNING_KEY": "too short"},
            "give at least 24 random characters",
        ),
        ({"API_KEY": "k", "HTP_PORT": "1"}, "ANTIPHON_HTP_PORT: unknown setting"),
        ({"TENANTS_FILE": "t", "TENANT_KEYS": json.dumps({"acme": [sha256("a")]})}, "ANTIPHON_TENANT_KEYS contradict"),
        ({"TENANTS_FILE": "t", "TENANT_TERMS": '{"*": {}}'}, "ANTIPHON_TENANT_TERMS contradict"),
        ({"TENANTS_FILE": "t", "ALLOW_ANONYMOUS": "true"}, "ANTIPHON_ALLOW_ANONYMOUS=true contradict"),
        ({"API_KEY": "k", "MAX_WAITING": "5", "MAX_WAITING_PER_TENANT": "6"}, "ANTIPHON_MAX_WAITING_PER_TENANT"),
        ({"API_KEY": "k", "TENANT_TERMS": json.dumps({"acme": {}})}, "ANTIPHON_TENANT_TERMS: tenant 1 has no key"),
        ({"API_KEY": "k", "TENANT_TERMS": json.dumps({"Acme & Co": {}})}, "tenant 1: give a tenant's name"),
        (
            {"API_KEY": "k", "TENANT_TERMS": json.dumps({"*": {"weight": 0}})},
            "TENANT_TERMS: Input should be greater than 0",
        ),
        ({"API_KEY": "k", "TENANT_TERMS": json.dumps({"*": {"wait": 1}})}, "TENANT_TERMS: Extra inputs"),
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


def test_terms_of_tenants_are_those_of_the_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("ANTIPHON_API_KEY", "k")
    monkeypatch.setenv(
        "ANTIPHON_TENANT_TERMS", '{"default": {"weight": 2, "priority": 1, "max_slots": 3}, "*": {"max_share": 0.5}}'
    )
    settings = load_settings(GatewaySettings)
    limits = queue_limits(settings, queue_terms(settings.tenant_terms, {}))
    assert limits.terms_of("default") == TenantTerms(weight=2, priority=1, max_slots=3)
    assert limits.terms_of("acme") == TenantTerms(max_share=0.5)


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
