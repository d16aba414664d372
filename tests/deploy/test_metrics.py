"""The docs list the metrics that the services declare, and the services expose exactly those."""

from __future__ import annotations

import importlib
import re
import warnings
from functools import cache
from typing import Any

import pytest
from prometheus_client import Counter, Gauge, Histogram

from deploy import metrics_table
from deploy.metrics_table import PAGE, with_table
from tests.deploy.exported import CONTROL, SCALER, Family
from tests.deploy.files import ROOT
from tests.deploy.promql import panel_expressions


@cache
def table() -> str:
    """Return the generated table. Importing vLLM raises warnings."""
    with warnings.catch_warnings(action="ignore"):
        return metrics_table.table()


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return metric → (kind, labels), from the table."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table().splitlines()[2:]]
    return {name.strip("`"): (kind, set(labels.split(", ")) - {"—"}) for name, kind, labels, _ in lines}


def test_the_docs_list_the_declared_metrics() -> None:
    page = PAGE.read_text()
    assert with_table(page, table()) == page, "run python -m deploy.metrics_table"


def test_every_metric_is_written() -> None:
    """A metric without writers would stay 0 on the dashboards."""
    sources = {path: path.read_text() for path in (ROOT / "services").rglob("*.py")}
    for path, text in sources.items():
        if not re.search(r"^from prometheus_client import", text, re.MULTILINE):
            continue
        for name in re.findall(r"^([A-Z_]+) = (?:Counter|Gauge|Histogram)\(", text, re.MULTILINE):
            uses = sum(len(re.findall(rf"\b{name}\b", other)) for other in sources.values())
            assert uses > 1, f"{path.relative_to(ROOT)}: {name}"


def test_a_running_stack_exposes_exactly_the_documented_metrics(exported: dict[str, dict[str, Family]]) -> None:
    shown = {name for families in exported.values() for name in families if name.startswith("antiphon_")}
    outside = {name for name in documented() if name.startswith("antiphon_scaler_")} | CONTROL.keys()
    assert shown == documented().keys() - outside


def test_exposed_metrics_have_the_documented_kind_and_labels(exported: dict[str, dict[str, Family]]) -> None:
    known = documented()
    for families in exported.values():
        for name, family in families.items():
            if name.startswith("antiphon_"):
                kind, labels = known[name]
                assert family.kind == kind
                assert not family.has_samples or family.labels == labels, name


def test_a_spoken_answer_changes_its_metrics(series: dict[str, Family]) -> None:
    """Otherwise the check of labels could be empty."""
    moved = (
        "antiphon_gateway_first_audio_seconds_count",
        "antiphon_gateway_tenant_queue_wait_seconds_count",
        "antiphon_gateway_tokens_total",
        "antiphon_gateway_turns_total",
        "antiphon_preprocess_items_total",
        "antiphon_preprocess_stage_seconds_count",
        "antiphon_queue_slots",
        "antiphon_redis_errors_total",
        "antiphon_talker_stream_ends_total",
        "antiphon_thinker_turns_total",
    )
    assert [name for name in moved if not series[name].has_samples] == []


def test_the_scalers_metrics_are_those_of_its_module() -> None:
    if not (ROOT / "services/scaler").exists():
        pytest.skip("services/scaler is not in this tree")
    declared = declared_in("services.scaler.metrics")
    assert SCALER.keys() <= declared.keys()
    assert all(declared[name] == labels for name, labels in SCALER.items())


def test_the_control_planes_metrics_are_those_of_its_module() -> None:
    assert declared_in("services.control.metrics") == CONTROL


def test_every_metric_of_the_control_plane_is_on_a_dashboard() -> None:
    shown = {selected.metric for query in panel_expressions() for selected in query.selected()}
    assert shown >= CONTROL.keys()


def declared_in(name: str) -> dict[str, frozenset[str]]:
    """Return the metrics that a module declares, and their labels."""
    module: Any = importlib.import_module(name)
    return {
        f"{metric.name}_total" if metric.type == "counter" else metric.name: frozenset(
            getattr(value, "_labelnames", ())
        )
        for value in vars(module).values()
        if isinstance(value, Counter | Gauge | Histogram)
        for metric in value.describe()
    }
