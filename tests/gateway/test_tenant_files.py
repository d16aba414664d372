"""Tenants from files: read at the start and whenever they change."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from services.common.queues import TenantTerms
from services.common.settings import SettingsError
from services.gateway import tenant_files
from services.gateway.gateway import queue_terms
from services.gateway.tenant_files import TenantFiles, Tenants
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import RunningGateway, running_gateway
from tests.gateway.samples import sample
from tests.gateway.test_auth import sha256


def written(path: Path, entries: Any) -> Path:
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries), encoding="utf-8")
    return path


def test_a_folder_holds_keys_and_terms(tmp_path: Path) -> None:
    written(tmp_path / "a.json", {"acme": [sha256("a")], "*": {"max_share": 0.5}, "default": {"weight": 2}})
    written(tmp_path / "b.json", {"beta": {"keys": [sha256("b")], "weight": 3, "priority": -1}})
    written(tmp_path / "notes.txt", "not read")
    tenants = TenantFiles(tmp_path, "k").read()
    assert tenants.keys == {"acme": [sha256("a")], "beta": [sha256("b")]}
    assert queue_terms(tenants.terms, {}) == {
        "*": TenantTerms(max_share=0.5), "default": TenantTerms(weight=2), "beta": TenantTerms(weight=3, priority=-1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ("{", "t.json is not JSON"),
        ([], "t.json must hold an object"),
        ({}, "no tenant has a key"),
        ({"acme": {"weight": 2}}, "tenant 1 has no key"),
        ({"acme": [sha256("a")], "beta": [sha256("a")]}, "tenants 1 and 2 have the same key"),
        ({"VERY-SECRET": [sha256("a")]}, "tenant 1: a name"),
        ({"acme": ["very-secret"]}, "tenant 1: each key must be given as its SHA-256"),
        ({"acme": "very-secret"}, "tenant 1: Input should be a valid dictionary"),
        ({"acme": {"very-secret": 1}}, "tenant 1: Extra inputs"),
        ({"acme": {"keys": [sha256("a")], "weight": 0}}, "tenant 1: weight: Input should be greater than 0"),
        ({"*": [sha256("a")]}, "tenant 1: '*' stands for all others"),
    ],
)
def test_a_wrong_file_is_refused_and_no_key_is_shown(tmp_path: Path, entries: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        TenantFiles(written(tmp_path / "t.json", entries)).read()
    assert "very-secret" not in str(caught.value).lower()


def test_files_do_not_share_tenants_or_the_api_key(tmp_path: Path) -> None:
    written(tmp_path / "a.json", {"acme": [sha256("a")]})
    with pytest.raises(ValueError, match="ANTIPHON_API_KEY is also a tenant's key"):
        TenantFiles(tmp_path, "a").read()
    written(tmp_path / "b.json", {"acme": [sha256("b")]})
    with pytest.raises(ValueError, match="tenant 2 is in the files twice"):
        TenantFiles(tmp_path).read()


@pytest.mark.parametrize("missing", ["nothing.json", "."])
async def test_a_gateway_without_its_files_does_not_start(tmp_path: Path, valkey_url: str, missing: str) -> None:
    with pytest.raises(SettingsError, match="ANTIPHON_TENANTS_FILE: "):
        async with running_gateway(valkey_url, api_key="", tenants_file=tmp_path / missing):
            pass


async def status(gateway: RunningGateway, key: str) -> int:
    return (await gateway.client.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code


async def test_a_changed_secret_is_read_while_the_gateway_runs(
    tmp_path: Path, store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes changes a mounted Secret by a link to another folder."""
    monkeypatch.setattr(tenant_files, "LOOK_EVERY_S", 0.05)

    def mount(version: str, entries: Any) -> None:
        (tmp_path / version).mkdir()
        written(tmp_path / version / "tenants.json", entries)
        (tmp_path / "new").symlink_to(version)
        (tmp_path / "new").rename(tmp_path / "..data")

    mount("1", {"acme": [sha256("a")], "beta": [sha256("b")]})
    (tmp_path / "tenants.json").symlink_to("..data/tenants.json")
    async with running_gateway(store.url, api_key="", tenants_file=tmp_path / "tenants.json") as gateway:
        assert [await status(gateway, key) for key in ("a", "b", "c", "none")] == [200, 200, 401, 401]
        mount("2", {"acme": [sha256("a-next")], "corp": {"keys": [sha256("c")], "max_slots": 1}})
        await wait_until(lambda: is_let_in(gateway, "c"))
        assert [await status(gateway, key) for key in ("a", "a-next", "b")] == [401, 200, 401]
        refused = sample("antiphon_gateway_tenant_files_read_total", outcome="refused")
        mount("3", {})
        await wait_until(lambda: sample("antiphon_gateway_tenant_files_read_total", outcome="refused") > refused)
        assert [await status(gateway, key) for key in ("a-next", "c", "none")] == [200, 200, 401]


async def is_let_in(gateway: RunningGateway, key: str) -> bool:
    return await status(gateway, key) == 200


async def test_ten_thousand_tenants_are_read_beside_the_event_loop(tmp_path: Path) -> None:
    names = [f"tenant-{number:05}" for number in range(10_000)]
    path = written(tmp_path / "tenants.json", {name: [sha256(name)] for name in names})
    assert path.stat().st_size < 1 << 20  # fits into a Secret
    files, read = TenantFiles(path), list[Tenants]()
    began_s = time.process_time()
    await files.look(read.append)
    assert list(read[0].keys) == names
    assert time.process_time() - began_s < 2
    await files.look(read.append)
    assert len(read) == 1  # it did not change
