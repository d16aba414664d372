"""`antiphon admin` against a control plane's own process."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.cli.__main__ import main
from services.control.usage.ledger import UsageLedger
from tests.cli.test_parquet import read_parquet
from tests.control.conftest import ADMIN_KEY, opened
from tests.control.process import ControlProcess, running_process
from tests.control.usage_records import record


@pytest.fixture(scope="module")
def control_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    folder = tmp_path_factory.mktemp("control")
    with running_process(folder, f"sqlite:///{folder}/control.db") as running:
        yield running
        running.stop()


@pytest.fixture
def admin(
    control_process: ControlProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Admin:
    monkeypatch.setenv("ADMIN_KEY", ADMIN_KEY)
    return Admin(control_process.url, capsys)


class Admin:
    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._url = url
        self._capsys = capsys

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """Run `antiphon admin` and return what it printed, or its complaint where it fails."""
        assert main(["admin", "--url", self._url, *arguments]) == status
        said = self._capsys.readouterr()
        return said.err if status else said.out

    def rows(self, *arguments: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in self("--json", *arguments).splitlines()]


def test_an_operator_makes_rotates_and_revokes_a_key(admin: Admin) -> None:
    assert "acme" in admin("orgs", "create", "acme")
    assert "acme.prod" in admin("projects", "create", "acme/prod")
    secret = admin("keys", "create", "acme/prod", "first", "--scope", "chat", "--expires-in", "90d").strip()
    (key,) = admin.rows("keys", "list", "acme/prod")
    assert secret.startswith(f"{key['prefix']}_")
    assert key["scopes"] == ["chat"]
    assert admin.rows("keys", "find", str(key["prefix"])) == [key]
    successor = admin("keys", "rotate", str(key["id"]), "--overlap", "1h").strip()
    assert successor.startswith("ap_")
    assert successor != secret
    assert admin.rows("keys", "revoke", str(key["id"]))[0]["revoked_at"]
    assert [row["action"] for row in admin.rows("audit", "--target", str(key["id"]))] == [
        "key.create", "key.rotate", "key.revoke",
    ]  # fmt: skip
    assert secret not in admin("audit")
    table = admin("projects", "list", "acme").splitlines()
    assert table[0].split() == ["ID", "NAME", "TENANT", "CREATED_AT", "ARCHIVED_AT"]
    assert len(table) == 2


def test_many_rows_come_from_several_pages(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.cli.admin_client._PAGE", 2)
    for number in range(5):
        admin("orgs", "create", f"many-{number}")
    names = [row["name"] for row in admin.rows("orgs", "list")]
    assert [name for name in names if str(name).startswith("many-")] == [f"many-{number}" for number in range(5)]


def test_operators_have_keys_of_their_own(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = admin("admin-keys", "create", "operator").strip()
    monkeypatch.setenv("ADMIN_KEY", secret)
    (mine,) = [row for row in admin.rows("admin-keys", "list") if row["name"] == "operator"]
    admin("admin-keys", "revoke", str(mine["id"]))
    assert "Incorrect admin key" in admin("orgs", "list", status=1)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["orgs", "create", "Acme & Co"], "Invalid 'name'"),
        (["orgs", "get", "nobody"], "There is no organisation 'nobody'"),
        (["projects", "get", "nobody"], "write organisation/project"),
        (["keys", "list", "nobody/prod"], "There is no organisation"),
        (["keys", "revoke", "key_1"], "There is no such id"),
    ],
)
def test_a_refusal_is_told(admin: Admin, arguments: list[str], complaint: str) -> None:
    assert complaint in admin(*arguments, status=1)


def test_the_key_comes_from_the_environment(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADMIN_KEY")
    assert "Set ADMIN_KEY" in admin("orgs", "list", status=2)


def test_nobody_there_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ADMIN_KEY", ADMIN_KEY)
    assert main(["admin", "--url", "http://127.0.0.1:1", "orgs", "list"]) == 1
    assert "http://127.0.0.1:1 does not answer" in capsys.readouterr().err


def test_after_a_restore_gateways_begin_anew(control_process: ControlProcess) -> None:
    database = control_process.environ["ANTIPHON_DATABASE_URL"].removeprefix("sqlite:///")

    def epoch() -> str:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            return connection.execute("SELECT epoch FROM tenant_version").fetchone()[0]

    before = epoch()
    command = [sys.executable, "-m", "services.control", "new-epoch"]
    subprocess.run(command, env=control_process.environ, capture_output=True, check=True)
    assert epoch() != before


def test_a_database_that_is_away_ends_the_start(tmp_path: Path, control_process: ControlProcess) -> None:
    environ = control_process.environ | {"ANTIPHON_DATABASE_URL": f"postgresql://a:hunter2@/d?host={tmp_path}"}
    command = [sys.executable, "-m", "services.control", "migrate"]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "The database is away" in ran.stderr
    assert "hunter2" not in ran.stderr


def test_an_operator_sets_limits(admin: Admin) -> None:
    admin("orgs", "create", "limited")
    admin("projects", "create", "limited/prod")
    table = admin(
        "limits", "set", "limited/prod", "requests_per_minute=60", "money_per_month=12.50",
        "--model", "omni", "--weight", "2", "--pass-without-redis",
    )  # fmt: skip
    lines = [line.split() for line in table.splitlines()]
    assert ["requests_per_minute", "60", "passes"] in lines
    assert ["money_per_month", "12.5", "passes"] in lines
    assert ["models", "omni", "-"] in lines
    assert ["weight", "2.0", "-"] in lines
    admin("limits", "set", "limited/prod", "requests_per_minute=", "tokens_per_day=1000000")
    (terms,) = admin.rows("limits", "get", "limited/prod")
    assert terms["limits"] == {
        "money_per_month": {"amount": 12_500_000, "passes_without_redis": True},
        "tokens_per_day": {"amount": 1_000_000, "passes_without_redis": False},
    }
    assert (terms["models"], terms["weight"]) == (["omni"], 2.0)
    assert admin.rows("limits", "set", "limited", "--model", "")[0]["models"] == []
    for arguments, complaint in (
        (["limited", "--weight", "2"], "Unknown parameter: 'weight'"),
        (["limited/prod", "requests_per_hour=1"], "requests_per_hour"),
        (["limited/prod", "requests_per_day=1.5"], "'1.5' is no amount of requests_per_day"),
        (["limited/prod", "requests_per_day"], "write KIND=AMOUNT"),
        (["nobody/prod", "requests_per_day=1"], "There is no organisation 'nobody'"),
    ):
        assert complaint in admin("limits", "set", *arguments, status=1)


def test_an_operator_adds_prices(admin: Admin) -> None:
    (made,) = admin.rows(
        "prices", "add", "completion_text_tokens", "1.60", "--model", "omni", "--from", "2031-01-01T00:00:00Z"
    )
    assert (made["per_million"], made["micros_per_million"]) == ("1.6", 1_600_000)
    assert "omni" in admin("prices", "list", "--kind", "completion_text_tokens")
    assert admin.rows("prices", "list", "--model", "other") == []
    assert "Invalid value: 'minutes'" in admin("prices", "add", "minutes", "1", status=1)
    assert "can't begin in the past" in admin(
        "prices", "add", "requests", "1", "--from", "2020-01-01T00:00:00Z", status=1
    )


def test_usage_is_a_table_json_csv_or_parquet(
    admin: Admin,
    control_process: ControlProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    admin("orgs", "create", "used")
    (project,) = admin.rows("projects", "create", "used/prod")
    reader = admin("keys", "create", "used/prod", "reader", "--scope", "admin_read").strip()
    organisation = str(project["organisation_id"])

    async def add() -> None:
        async with opened(control_process.environ["ANTIPHON_DATABASE_URL"]) as database:
            given: dict[str, Any] = {
                "organisation_id": organisation,
                "project_id": project["id"],
                "tenant": "used.prod",
            }
            spoken: list[dict[str, Any]] = [{}, {"spoken_again": 2}, {"derailment": "cycle", "spoken_again": 1}]
            bodies = [
                record(f"cli-{number}", cost_micros=1_250_000, **given, **more) for number, more in enumerate(spoken)
            ]
            await UsageLedger(database).add(bodies)

    asyncio.run(add())

    def usage(*arguments: str, status: int = 0) -> str:
        assert main(["usage", "--url", control_process.url, "--from", "2031-01-01", *arguments]) == status
        said = capsys.readouterr()
        return said.err if status else said.out

    header, row = usage("--by", "project", "--org", "used").splitlines()
    assert header.split() == ["TENANT", "PROJECT_ID", "REQUESTS", "TOKENS", "AUDIO_IN_MS", "AUDIO_OUT_MS", "COST"]
    assert row.split() == ["used.prod", project["id"], "3", "45", "0", "0", "3.75"]
    assert json.loads(usage("--json", "--project", "used/prod"))["day"] == "2031-01-20"
    ((first,),) = [list(csv.DictReader(usage("--csv", "--by", "day,model", "--project", "used/prod").splitlines()))]
    assert (first["day"], first["model"], first["prompt_text_tokens"], first["cost"]) == (
        "2031-01-20",
        "omni",
        "30",
        "3.75",
    )
    assert (first["derailed_requests"], first["spoken_again"]) == ("1", "3")
    assert usage("--parquet", str(tmp_path / "used"), "--by", "day,key", "--project", "used/prod") == ""
    (row,) = read_parquet((tmp_path / "used").read_bytes())
    assert (row["day"], row["key_id"], row["tokens"], row["cost"]) == (date(2031, 1, 20), "key_1", 45, Decimal("3.75"))
    assert (row["derailed_requests"], row["spoken_again"]) == (1, 3)
    assert "cannot be written" in usage("--parquet", str(tmp_path / "none/used"), status=1)
    assert "some of day, organisation" in usage("--by", "week", status=1)
    monkeypatch.setenv("ADMIN_KEY", reader)
    assert usage("--own", "--by", "").split()[-1] == "3.75"
    assert "leave --org and --project out" in usage("--own", "--org", "used", status=1)
    assert "admin_key_needed" in usage("--by", "", status=1)
