from pathlib import Path

import pytest
from pydantic import Field

from services.common.settings import (
    ServiceSettings,
    SettingsError,
    WorkerSettings,
    load_settings,
    load_settings_or_exit,
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("ANTIPHON_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ANTIPHON_REDIS_URL", "redis://127.0.0.1:1")


def test_settings_are_read_by_name_and_frozen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANTIPHON_DRAIN_S", "2.5")
    monkeypatch.setenv("ANTIPHON_READY_FILE", "/tmp/ready.json")
    settings = load_settings(ServiceSettings)
    assert settings.drain_s == 2.5
    assert settings.ready_file == Path("/tmp/ready.json")
    with pytest.raises(ValueError, match="frozen"):
        settings.drain_s = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_every_wrong_missing_and_unknown_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANTIPHON_SLOTS", "many")
    monkeypatch.setenv("ANTIPHON_SLOTZ", "3")
    with pytest.raises(SettingsError) as caught:
        load_settings(WorkerSettings)
    for name in ("ANTIPHON_SLOTS", "ANTIPHON_SLOTZ: unknown", "ANTIPHON_MODEL"):
        assert name in str(caught.value)


class Tables(ServiceSettings):
    table: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])
    items: tuple[int, ...] = ()


@pytest.mark.parametrize("value", ["foo", "{", "3"])
def test_a_variable_with_wrong_json_is_named_with_all_others(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("ANTIPHON_TABLE", value)
    monkeypatch.setenv("ANTIPHON_ITEMS", value)
    monkeypatch.setenv("ANTIPHON_DRAIN_S", "long")
    with pytest.raises(SettingsError) as caught:
        load_settings(Tables)
    said = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in said] == ["ANTIPHON_DRAIN_S", "ANTIPHON_TABLE", "ANTIPHON_ITEMS"]
    assert all(line.endswith(", as JSON") for line in said[1:])


def test_json_in_a_variable_is_parsed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANTIPHON_TABLE", '{"a": ["b"]}')
    monkeypatch.setenv("ANTIPHON_ITEMS", "[1, 2]")
    settings = load_settings(Tables)
    assert (settings.table, settings.items) == ({"a": ["b"]}, (1, 2))


def test_a_url_that_is_not_redis_stops_the_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANTIPHON_REDIS_URL", "foo://x")
    with pytest.raises(SettingsError, match=r"ANTIPHON_REDIS_URL: .*redis\+sentinel://"):
        load_settings(ServiceSettings)


def test_a_wrong_setting_stops_the_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("ANTIPHON_GRPC_PORT", "70000")
    with pytest.raises(SystemExit) as caught:
        load_settings_or_exit(ServiceSettings)
    assert caught.value.code == 2
    assert "ANTIPHON_GRPC_PORT" in capsys.readouterr().err


def test_the_served_name_is_the_last_part_of_the_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANTIPHON_MODEL", "Qwen/Qwen3-Omni-30B-A3B-Instruct/")
    assert load_settings(WorkerSettings).name == "Qwen3-Omni-30B-A3B-Instruct"
    monkeypatch.setenv("ANTIPHON_SERVED_NAME", "omni")
    assert load_settings(WorkerSettings).name == "omni"
