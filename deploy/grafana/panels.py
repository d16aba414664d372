"""A short way to say what a panel shows; Grafana's own SDK makes its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableHide,
    VariableRefresh,
)

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24
"""Of Grafana's grid."""


@dataclass(frozen=True)
class Query:
    """PromQL, and what a series is called: "{{stage}}". `$ns` stands for the chosen namespaces."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Graph:
    """Lines over time. `unit` is one of Grafana's ids: s, ms, short, reqps, percentunit, bytes …; `limit` draws a red
    line, for what should stay below it."""

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    limit: float | None = None
    width: int = 8


@dataclass(frozen=True)
class Number:
    """The present value alone; red from `limit` on, or below it with `low_is_bad`."""

    title: str
    description: str
    unit: str
    query: Query
    limit: float | None = None
    low_is_bad: bool = False
    width: int = 4


@dataclass(frozen=True)
class Board:
    """One dashboard: rows of panels."""

    uid: str
    title: str
    description: str
    rows: dict[str, Sequence[Graph | Number]] = field(default_factory=dict[str, Sequence[Graph | Number]])

    def build(self) -> dashboard.Dashboard:
        board = (
            dashboard.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags(["antiphon"])
            .tooltip(DashboardCursorSync.CROSSHAIR)
            .refresh("30s")
            .time("now-3h", "now")
            .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Data source"))
            .with_variable(_namespaces())
        )
        numbers = count(1)
        for title, panels in self.rows.items():
            board.with_row(dashboard.Row(title).id(next(numbers)))
            for panel in panels:
                board.with_panel((_graph(panel) if isinstance(panel, Graph) else _number(panel)).id(next(numbers)))
        return board


def _namespaces() -> dashboard.QueryVariable:
    """All of them where there are none: on one machine no series has the label."""
    return (
        dashboard.QueryVariable("namespace")
        .label("Namespace")
        .datasource(DATASOURCE)
        .query("label_values(antiphon_gateway_ready, namespace)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .hide(VariableHide.DONT_HIDE)
    )


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .expr(query.expr.replace("$ns", 'namespace=~"$namespace"'))
        .legend_format(query.legend)
        .ref_id(ref)
        .datasource(DATASOURCE)
    )


def _graph(graph: Graph) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = (
        timeseries.Panel()
        .title(graph.title)
        .description(graph.description)
        .unit(graph.unit)
        .min(0)
        .fill_opacity(8)
        .legend(legend.show_legend(True))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .datasource(DATASOURCE)
        .span(graph.width)
        .height(8)
    )
    for i, query in enumerate(graph.queries):
        panel.with_target(_target(query, chr(ord("A") + i)))
    if graph.limit is not None:
        panel.thresholds(_thresholds(graph.limit, low_is_bad=False))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.LINE))
    return panel


def _number(number: Number) -> stat.Panel:
    panel = (
        stat.Panel()
        .title(number.title)
        .description(number.description)
        .unit(number.unit)
        .datasource(DATASOURCE)
        .span(number.width)
        .height(4)
        .with_target(_target(number.query, "A"))
    )
    if number.limit is not None:
        panel.thresholds(_thresholds(number.limit, low_is_bad=number.low_is_bad))
    return panel


def _thresholds(limit: float, *, low_is_bad: bool) -> dashboard.ThresholdsConfig:
    below, above = ("red", "green") if low_is_bad else ("green", "red")
    steps = [Threshold(value=None, color=below), Threshold(value=limit, color=above)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
