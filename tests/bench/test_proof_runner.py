"""The runner: a failed section stops no other, each has a time limit, and each gets a result."""

from __future__ import annotations

import sys

import pytest

from bench.proof import runner
from tests.bench.sample_sections import SECTIONS
from tests.fixtures.processes import has_ended

COMMAND = [sys.executable, "-m", "tests.bench.sample_sections"]


@pytest.fixture(autouse=True)
def a_short_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "START_S", 5.0)


def test_every_section_has_a_result(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    results = runner.run_sections(COMMAND, SECTIONS, 100, told.append)
    assert list(results) == [section.name for section in SECTIONS]
    assert {name: result["status"] for name, result in results.items()} == {
        "good": "ok",
        "wrong": "failed",
        "after wrong": "ok",
        "raising": "failed",
        "dying": "failed",
        "hanging": "timed out",
        "after hanging": "ok",
        "with a mode": "ok",
    }
    assert results["wrong"]["figures"] == {"apart": 3}
    assert results["raising"]["error"] == "ValueError: no such thing"
    assert "status -11" in results["dying"]["error"]
    assert results["with a mode"]["figures"]["mode"] == "on"
    assert results["good"]["figures"]["mode"] == results["after wrong"]["figures"]["mode"] == ""
    processes = {results[name]["figures"]["process"] for name in ("good", "after wrong", "after hanging")}
    assert len(processes) == 3
    assert len(told) == len(SECTIONS)
    worker = int(capfd.readouterr().err.split("worker ")[1].split()[0])
    assert has_ended(worker)


def test_sections_that_pass_share_a_process() -> None:
    good = [section for section in SECTIONS if section.name in ("good", "after wrong", "after hanging")]
    results = runner.run_sections(COMMAND, good, 100, lambda _: None)
    assert len({result["figures"]["process"] for result in results.values()}) == 1


def test_without_time_left_a_section_is_not_run() -> None:
    results = runner.run_sections(COMMAND, SECTIONS[:1], 0, lambda _: None)
    assert results == {"good": {"status": "not run", "seconds": 0, "error": "no time was left"}}
