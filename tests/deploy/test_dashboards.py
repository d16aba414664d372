"""The committed dashboards equal the generated ones, and every query reads exported metrics."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from deploy.grafana.__main__ import rendered
from tests.deploy.exported import Family
from tests.deploy.promql import Expression, dashboards, panel_expressions
from tests.deploy.test_alerts import check_expression

BOARDS = dashboards()
QUERIES = panel_expressions()


def test_the_committed_dashboards_equal_the_generated_ones() -> None:
    committed = {name: (text_of(name)) for name in BOARDS}
    assert committed == rendered(), "run python -m deploy.grafana"


def text_of(name: str) -> str:
    from tests.deploy.files import DEPLOY

    return (DEPLOY / "grafana" / name).read_text()


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_can_be_loaded_by_its_own_uid(name: str) -> None:
    board = BOARDS[name]
    assert name == f"{board['uid']}.json"
    assert board["title"].startswith("Antiphon / ")
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "namespace"]


@pytest.mark.parametrize("name", BOARDS)
def test_no_two_panels_overlap_and_none_is_empty(name: str) -> None:
    panels = [panel for panel in BOARDS[name]["panels"] if panel["type"] != "row"]
    assert all(panel["targets"] and panel["description"] for panel in panels)
    for one, other in combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), f"{one['title']} and {other['title']}"


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    return across and one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]


@pytest.mark.parametrize("query", QUERIES, ids=[f"{query.where} {i}" for i, query in enumerate(QUERIES)])
def test_panels_read_exported_metrics_and_labels(query: Expression, series: dict[str, Family]) -> None:
    check_expression(query, series)


def test_every_metric_of_the_latency_table_is_shown() -> None:
    shown = {selected.metric for query in QUERIES for selected in query.selected()}
    rows = ("preprocess", "thinker_first_token", "talker_first_frame", "predictor_frame", "codec_frame", "first_audio")
    assert {f"antiphon_gateway_{row}_seconds_bucket" for row in rows} <= shown
    assert "antiphon_gateway_real_time_factor_ratio_bucket" in shown


def test_every_metric_of_the_services_is_on_a_dashboard_or_in_an_alert(exported: dict[str, dict[str, Family]]) -> None:
    from tests.deploy.promql import alert_expressions

    read = {selected.metric for query in (*QUERIES, *alert_expressions()) for selected in query.selected()}
    for service, families in exported.items():
        for family in families.values():
            if family.name.startswith("antiphon_"):
                assert family.series & read, f"{service}: {family.name} is shown nowhere"
