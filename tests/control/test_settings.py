"""The control plane's settings, and the gateway's that concern it."""

from __future__ import annotations

import pytest

from services.common.settings import SettingsError, load_settings
from services.control.settings import ControlSettings
from services.gateway.settings import GatewaySettings

SECRET = "s3cret-in-every-place-0123456789"
NEEDED = {"GATEWAY_TOKEN": "the-token-of-the-gateways-0123456789"}


def load(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> ControlSettings:
    for name, value in {**NEEDED, **variables}.items():
        monkeypatch.setenv(f"ANTIPHON_{name}", value)
    return load_settings(ControlSettings)


@pytest.mark.parametrize(
    "variables",
    [
        {"DATABASE_URL": f"postgresql://user:{SECRET}@host/antiphon"},
        {"DATABASE_URL": "postgresql://user@host/antiphon", "DATABASE_PASSWORD": SECRET},
        {"BOOTSTRAP_ADMIN_KEY": SECRET, "GATEWAY_TOKEN": SECRET},
        {"REDIS_URL": f"redis://user:{SECRET}@host"},
        {"EVENTS_URL": f"https://user:{SECRET}@host/{SECRET}", "EVENTS_TOKEN": SECRET},
    ],
)
def test_no_representation_shows_a_secret(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    settings = load(monkeypatch, variables)
    for shown in (repr(settings), str(settings), repr(settings.database), settings.database.place):
        assert SECRET not in shown


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"GATEWAY_TOKEN": ""}, "ANTIPHON_GATEWAY_TOKEN"),
        ({"GATEWAY_TOKEN": "short"}, "ANTIPHON_GATEWAY_TOKEN: Value error, it must have at least 24"),
        ({"BOOTSTRAP_ADMIN_KEY": "short"}, "ANTIPHON_BOOTSTRAP_ADMIN_KEY: Value error, it must have at least 24"),
        ({"DATABASE_URL": f"mysql://user:{SECRET}@host/db"}, "its scheme must be postgresql or sqlite"),
        ({"DATABASE_URL": SECRET}, "it is not a URL"),
        ({"DATABASE_URL": "sqlite://"}, "name a file"),
        ({"DATABASE_URL": "sqlite:////tmp/a.db", "DATABASE_PASSWORD": SECRET}, "SQLite has no password"),
        ({"DATABASE_URL": f"postgresql://a:{SECRET}@h/d", "DATABASE_PASSWORD": SECRET}, "set one of them"),
        ({"SLOTS": "1"}, "ANTIPHON_SLOTS: unknown setting"),
        ({"REDIS_URL": f"http://a:{SECRET}@h"}, "ANTIPHON_REDIS_URL: wanted a URL that begins with"),
        ({"REDIS_PASSWORD": SECRET}, "ANTIPHON_REDIS_USERNAME and ANTIPHON_REDIS_PASSWORD want ANTIPHON_REDIS_URL"),
        ({"REDIS_URL": f"redis://:{SECRET}@h", "REDIS_PASSWORD": SECRET}, "keep one of the two"),
        ({"EVENTS_URL": f"ftp://a:{SECRET}@h"}, "ANTIPHON_EVENTS_URL: Value error, it must be an http:// or"),
        ({"EVENTS_BATCH": "0"}, "ANTIPHON_EVENTS_BATCH"),
    ],
)
def test_wrong_settings_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], problem: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, variables)
    assert problem in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_database_url_gets_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch, {"DATABASE_URL": "postgresql://a@h/d?sslmode=verify-full", "DATABASE_PASSWORD": "p@:/"}
    )
    url = settings.database.url
    assert (url.drivername, url.password, dict(url.query)) == ("postgresql+asyncpg", "p@:/", {"ssl": "verify-full"})
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert load(monkeypatch, {"DATABASE_URL": "", "DATABASE_PASSWORD": ""}).database.url.database == (
        "/data/antiphon/control.db"
    )


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"CONTROL_ADDRESS": "control:9000"}, "ANTIPHON_CONTROL_TOKEN is required"),
        ({"API_KEY": "k", "CONTROL_TOKEN": "t"}, "want ANTIPHON_CONTROL_ADDRESS"),
        ({"CONTROL_ADDRESS": "http://control:9000", "CONTROL_TOKEN": "t"}, "ANTIPHON_CONTROL_ADDRESS"),
        (
            {"CONTROL_ADDRESS": "c:1", "CONTROL_TOKEN": "t", "ALLOW_ANONYMOUS": "true"},
            "ANTIPHON_CONTROL_ADDRESS and ANTIPHON_ALLOW_ANONYMOUS=true contradict",
        ),
        (
            {"CONTROL_ADDRESS": "c:1", "CONTROL_TOKEN": "t", "TENANTS_FILE": "t.json"},
            "ANTIPHON_CONTROL_ADDRESS and ANTIPHON_TENANTS_FILE contradict",
        ),
    ],
)
def test_a_gateway_has_one_source_of_tenants(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], problem: str
) -> None:
    for name, value in {"REDIS_URL": "redis://127.0.0.1:1", **variables}.items():
        monkeypatch.setenv(f"ANTIPHON_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings(GatewaySettings)
    assert problem in str(caught.value)
