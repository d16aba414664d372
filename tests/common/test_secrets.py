"""Secrets in settings: no representation of any service's settings shows one."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from services.common.settings import ServiceSettings, load_settings

SECRET = "s3cret-in-every-place"
SETTINGS = {
    "gateway": ("GatewaySettings", {"API_KEY": SECRET}),
    "preprocess": ("PreprocessSettings", {"MODEL": "/models/a"}),
    "thinker": ("ThinkerSettings", {"MODEL": "/models/a"}),
    "talker": ("TalkerSettings", {"MODEL": "/models/a"}),
    "scaler": ("ScalerSettings", {}),
}


def load(service: str) -> ServiceSettings:
    name, _ = SETTINGS[service]
    return load_settings(getattr(importlib.import_module(f"services.{service}.settings"), name))


@pytest.mark.parametrize("service", SETTINGS)
@pytest.mark.parametrize(
    "redis",
    [
        {"REDIS_URL": f"redis://user:{SECRET}@127.0.0.1:1"},
        {"REDIS_URL": f"redis+sentinel://user:{SECRET}@127.0.0.1:1/main"},
        {"REDIS_URL": "redis://127.0.0.1:1", "REDIS_PASSWORD": SECRET},
    ],
    ids=["url", "sentinel", "password"],
)
def test_no_representation_shows_a_secret(monkeypatch: pytest.MonkeyPatch, service: str, redis: dict[str, str]):
    for name, value in {**SETTINGS[service][1], **redis}.items():
        monkeypatch.setenv(f"ANTIPHON_{name}", value)
    settings = load(service)
    for shown in (repr(settings), str(settings), repr(settings.redis), str(settings.redis), settings.redis.place):
        assert SECRET not in shown


def test_every_settings_class_of_the_services_is_here():
    modules = Path(__file__).parents[2].glob("services/*/settings.py")
    without_redis = {"control"}  # tests/control/test_settings.py
    assert {module.parent.name for module in modules} - {"common"} == set(SETTINGS) | without_redis
