"""The operator's settings, and the limits that follow from them."""

import ipaddress

import pytest

from services.common.settings import SettingsError, load_settings
from services.preprocess.limits import MediaLimits
from services.preprocess.settings import PreprocessSettings


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> PreprocessSettings:
    given = {"REDIS_URL": "redis://127.0.0.1:1", "MODEL": "/models/a", **variables}
    for name, value in given.items():
        monkeypatch.setenv(f"ANTIPHON_{name}", value)
    return load_settings(PreprocessSettings)


def test_the_default_limits_are_the_documented_ones(monkeypatch: pytest.MonkeyPatch):
    settings = load(monkeypatch)
    assert settings.limits == MediaLimits()
    assert settings.fetch_policy.ports == (80, 443)
    assert settings.fetch_policy.networks == ()
    assert settings.media_folder is None


def test_one_item_is_never_longer_than_the_model(monkeypatch: pytest.MonkeyPatch):
    settings = load(monkeypatch, MAX_MODEL_LEN="4096", MAX_ITEM_TOKENS="8192")
    assert settings.limits.item_tokens == 4096


def test_networks_and_ports_reach_the_fetchers_policy(monkeypatch: pytest.MonkeyPatch):
    settings = load(monkeypatch, FETCH_NETWORKS='["10.1.0.0/16", "fd00::/8"]', FETCH_PORTS="[8080]")
    assert settings.fetch_policy.networks == (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8"))
    assert settings.fetch_policy.ports == (8080,)


def test_a_file_has_time_for_the_processor_time_that_it_may_take(monkeypatch: pytest.MonkeyPatch):
    """On a processor that it shares with one other, at least."""
    settings = load(monkeypatch)
    assert settings.decode_timeout_s >= 2 * settings.decode_cpu_s
    with pytest.raises(SettingsError, match=r"ANTIPHON_DECODE_CPU_S: .* decode_timeout_s, 60"):
        load(monkeypatch, DECODE_TIMEOUT_S="60")


@pytest.mark.parametrize(
    ("name", "value"), [("FETCH_NETWORKS", '["nonsense"]'), ("MAX_VIDEO_FRAMES", "1"), ("MAX_IMAGE", "1")]
)
def test_a_wrong_or_unknown_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    with pytest.raises(SettingsError, match=f"ANTIPHON_{name}:"):
        load(monkeypatch, **{name: value})
