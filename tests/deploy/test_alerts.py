"""Alert rules are valid, have promtool tests that fire and that stay silent, and have a runbook section."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.exported import CONTROL, FOREIGN, FROM_SCRAPING, SCALER, Family
from tests.deploy.files import DEPLOY, DOCS, ROOT, load_yaml
from tests.deploy.promql import Expression, alert_expressions, alert_rules, recorded_expressions

PROMETHEUS = DEPLOY / "prometheus"
RULES = alert_rules()
NAMES = [rule["alert"] for rule in RULES]
TEST_FILES = sorted((PROMETHEUS / "tests").glob("*.yaml"))
TESTS: list[dict[str, Any]] = [test for path in TEST_FILES for test in load_yaml(path)["tests"]]


@pytest.fixture(scope="session")
def promtool() -> str:
    """Return the path of promtool. If it cannot be installed, fail with CI=true and skip otherwise."""
    found = subprocess.run([ROOT / "tests/tools/promtool.sh"], stdout=subprocess.PIPE, text=True, check=True)
    if not found.stdout:
        pytest.skip("promtool cannot be had")
    return found.stdout.strip()


def test_promtool_finds_the_rules_and_the_configuration_valid(promtool: str) -> None:
    for words in (("check", "rules", "alerts.yaml"), ("check", "config", "prometheus.yaml")):
        checked = subprocess.run([promtool, *words], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent_as_their_unit_tests_say(promtool: str, path: Path) -> None:
    tested = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_rule_that_is_broken_fails_its_unit_test(promtool: str, tmp_path: Path) -> None:
    broken = (
        (PROMETHEUS / "alerts.yaml").read_text().replace("_oldest_wait_seconds) > 30", "_oldest_wait_seconds) > 60")
    )
    (tmp_path / "alerts.yaml").write_text(broken)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/queues.yaml").write_text((PROMETHEUS / "tests/queues.yaml").read_text())
    command = [promtool, "test", "rules", "tests/queues.yaml"]
    tested = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert tested.returncode != 0
    assert "AntiphonQueueOld" in tested.stdout + tested.stderr


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_unit_tests_in_which_it_fires_and_stays_silent(name: str) -> None:
    expected = [case["exp_alerts"] for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == name]
    assert any(expected)
    assert not all(expected)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("AntiphonScalerAway",)])
def test_an_alerts_unit_test_has_series_that_must_not_fire(name: str) -> None:
    (test,) = (test for test in TESTS if test["name"] == name)
    assert any('namespace="good"' in series["series"] for series in test["input_series"])


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_says_what_is_wrong_and_links_its_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_the_runbook_has_exactly_one_section_per_alert() -> None:
    sections = re.findall(r"^## (Antiphon\w+)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)
    assert sections == NAMES


@pytest.mark.parametrize("name", ["AntiphonNotServing", "AntiphonNoWorker", "AntiphonGpuFault"])
def test_a_lost_stack_and_a_sticky_gauge_have_their_own_cases(name: str) -> None:
    assert len([test for test in TESTS if test["name"].startswith(f"{name}, ")]) >= 2


@pytest.mark.parametrize("expression", [*alert_expressions(), *recorded_expressions()], ids=lambda found: found.where)
def test_alerts_read_exported_metrics_and_labels(expression: Expression, series: dict[str, Family]) -> None:
    check_expression(expression, series)


def check_expression(expression: Expression, series: dict[str, Family]) -> None:
    """Assert that a service of the stack, the scaler, the control plane or a known exporter provides each metric of the
    expression, with the labels that the expression uses."""
    known: set[str] = set()
    for selected in expression.selected():
        name = selected.metric
        outside = None if name in series else (SCALER | CONTROL | FOREIGN).get(name)
        assert name in series or outside is not None, f"{expression.where}: nobody exports {name}"
        if outside is None and not series[name].has_samples:
            continue
        labels = (series[name].labels if outside is None else outside) | FROM_SCRAPING
        known |= labels
        assert selected.labels - {"__name__"} <= labels, f"{expression.where}: {name} has only {sorted(labels)}"
    if known:
        assert expression.grouped() <= known | expression.made(), (
            f"{expression.where}: it aggregates by labels that are not there"
        )
