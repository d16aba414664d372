"""What the pages name is there: settings, their defaults, commands, modules, targets, metrics, alerts, panels."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deploy import metrics_table, settings_table
from services.cli.__main__ import build_parser
from services.common.settings_check import settings_class
from services.local.options import OTHERS_VARIABLES, OWN_VARIABLES
from services.preprocess.settings import PreprocessSettings
from services.thinker.settings import ThinkerSettings
from tests.deploy.files import DOCS, ROOT, SERVICES

PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md"), *(ROOT / "services").rglob("README.md")])
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FAMILIES = "control|gateway|ledger|memory|preprocess|queue|redis|scaler|talker|thinker"
"""The second word of our metrics."""
UNITS = {"": 1, "ms": 1, "s": 1, "h": 3600, "hours": 3600, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
NUMBER = rf"([\d,.]*\d) ?({'|'.join(filter(None, UNITS))})?"
STATED = re.compile(rf"`ANTIPHON_([A-Z_]+)` \({NUMBER}[);:,]")
SETTING = re.compile(r"`ANTIPHON_([A-Z_]+)`")


@cache
def defaults() -> dict[str, list[Any]]:
    """Return the name of each setting → its default in each service that has it."""
    found: dict[str, list[Any]] = {}
    for service in SERVICES:
        for name, field in settings_class(service).model_fields.items():
            found.setdefault(name, []).append(field.get_default(call_default_factory=True))
    return found


def stated(text: str) -> Iterator[tuple[str, float]]:
    """Yield the settings whose default the text tells: in parentheses behind the name, or in the cell behind it."""
    for name, number, unit in STATED.findall(text):
        yield name.lower(), float(number.replace(",", "")) * UNITS[unit]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        for cell, after in pairwise(cells):
            names, number = SETTING.findall(cell), re.fullmatch(NUMBER, after)
            if len(names) == 1 and number:
                yield names[0].lower(), float(number[1].replace(",", "")) * UNITS[number[2] or ""]


@pages
def test_defaults_that_a_page_states_are_those_of_the_code(page: Path) -> None:
    wrong = {name: value for name, value in stated(page.read_text()) if value not in defaults().get(name, ())}
    assert wrong == {}


def test_defaults_are_found_in_sentences_and_in_tables() -> None:
    found = {page.name for page in PAGES if any(stated(page.read_text()))}
    assert {"media.md", "batches.md", "realtime.md", "tenants.md"} <= found


@pages
def test_every_variable_is_a_setting_or_a_commands(page: Path) -> None:
    others = {name.removeprefix("ANTIPHON_").lower() for name in OWN_VARIABLES | OTHERS_VARIABLES}
    named = {name.lower() for name in re.findall(r"ANTIPHON_([A-Z_]+[A-Z])", page.read_text())}
    assert named <= defaults().keys() | others


def test_the_page_of_settings_is_generated() -> None:
    page = settings_table.PAGE.read_text()
    assert settings_table.with_tables(page) == page, "run python -m deploy.settings_table"


def test_every_setting_has_a_meaning() -> None:
    assert [row.name for service in SERVICES for row in settings_table.rows(service) if not row.about] == []


def test_what_a_turn_needs_is_held_longer_than_a_turn_may_last() -> None:
    (longest_s,) = defaults()["request_timeout_s"]
    assert longest_s < PreprocessSettings.model_fields["feature_hold_s"].default
    assert longest_s < ThinkerSettings.model_fields["hidden_states_hold_s"].default


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `antiphon …` of the blocks, and of those in sentences that have an argument."""
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(antiphon (?:admin|batch|usage|size) -?[a-z][^`]*)`", text)
    for line in lines:
        bare = re.sub(r'^\w+="\$\((.*)\)"$', r"\1", line)
        if not re.match(r"(\w+=\S+ )*(\.venv/bin/)?antiphon ", bare):
            continue
        words = shlex.split(bare, comments=True)
        start = next(at for at, word in enumerate(words) if word.endswith("antiphon")) + 1
        end = next((at for at, word in enumerate(words) if word.startswith(("<", ">", "|", "&"))), len(words))
        yield words[start:end]


COMMANDS = sorted({tuple(words) for page in PAGES for words in commands(page.read_text())})


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_of_antiphon_are_valid(words: tuple[str, ...]) -> None:
    assert build_parser().parse_args(list(words))


def test_commands_of_operators_are_found() -> None:
    assert {words[0] for words in COMMANDS} >= {"admin", "batch", "chat", "size", "usage"}


@pages
def test_modules_and_targets_exist(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    for module in re.findall(r"python -m ((?:services|bench|deploy|helm|tests|training)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@cache
def metrics() -> set[str]:
    with warnings.catch_warnings(action="ignore"):  # of vLLM's import
        return set(re.findall(r"^\| `(\w+)`", metrics_table.table(), re.MULTILINE))


@pages
def test_metrics_and_alerts_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(rf"\b(antiphon_(?:{FAMILIES})_\w*[a-z])(?![\w*]|_\*)", text)
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} <= metrics()
    alerts = set(re.findall(r"alert: (\w+)", (ROOT / "deploy/prometheus/alerts.yaml").read_text()))
    assert set(re.findall(r"\bAntiphon[A-Z]\w+", text)) <= alerts


@pages
def test_panels_of_dashboards_exist(page: Path) -> None:
    """A panel is named *dashboard / panel*."""
    panels: dict[str, set[str]] = {}
    for path in (ROOT / "deploy/grafana").glob("*.json"):
        board = json.loads(path.read_text())
        rows: list[Any] = board["panels"]
        inside = [panel for row in rows for panel in row.get("panels", ())]
        panels[board["title"].removeprefix("Antiphon / ")] = {panel["title"] for panel in rows + inside}
    for board, panel in re.findall(r"(?<![\w*])\*([A-Z][^*/\n]*) / ([^*\n]+)\*(?!\*)", page.read_text()):
        assert panel in panels[board], (board, panel)
