"""Parse PromQL to find the metrics and labels that an expression reads."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import promql_parser

from tests.deploy.files import DEPLOY, load_yaml

# Variables that Grafana fills in; for parsing any duration and any value will do.
_GRAFANA = (("$__rate_interval", "5m"), ("$namespace", ".*"))


@dataclass(frozen=True)
class Selected:
    """A metric that an expression reads, and the labels in its selector."""

    metric: str
    labels: frozenset[str]


@dataclass(frozen=True)
class Expression:
    """A PromQL expression. `where` names its alert or panel."""

    where: str
    text: str

    @property
    def parsed(self) -> Any:
        """Return the syntax tree. Raise ValueError if the text is not PromQL."""
        text = self.text
        for variable, value in _GRAFANA:
            text = text.replace(variable, value)
        assert not re.search(r"\$[A-Za-z_{]", text), f"{self.where}: a variable that the dashboard does not have"
        return promql_parser.parse(text)

    def selected(self) -> list[Selected]:
        found: list[Selected] = []

        def visit(node: Any) -> bool:
            if isinstance(node, promql_parser.VectorSelector):
                labels = frozenset(matcher.name for matcher in node.matchers.matchers)
                found.append(Selected(node.name or "", labels))
            return True

        promql_parser.walk(self.parsed, visit)
        return found

    def grouped(self) -> set[str]:
        """Return the labels that the expression aggregates by, except `le`."""
        by = {label for group in re.findall(r"by \(([^)]*)\)", self.text) for label in group.split(",")}
        return {label.strip() for label in by} - {"le"}

    def made(self) -> set[str]:
        """Return the labels that the expression itself writes."""
        replaced = re.findall(r'"(\w+)", "[^"]*\$1', self.text)
        return {*replaced, *re.findall(r'count_values by \([^)]*\) \("(\w+)"', self.text)}


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in _groups() for rule in group["rules"] if "alert" in rule]


def recorded_rules() -> list[dict[str, Any]]:
    return [rule for group in _groups() for rule in group["rules"] if "record" in rule]


def _groups() -> list[dict[str, Any]]:
    return load_yaml(DEPLOY / "prometheus/alerts.yaml")["groups"]


def dashboards() -> dict[str, dict[str, Any]]:
    """Return the dashboards by file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana").glob("*.json"))}


def alert_expressions() -> list[Expression]:
    return [Expression(rule["alert"], rule["expr"]) for rule in alert_rules()]


def recorded_expressions() -> list[Expression]:
    return [Expression(rule["record"], rule["expr"]) for rule in recorded_rules()]


def panel_expressions() -> list[Expression]:
    return [
        Expression(f"{name}: {panel['title']}", target["expr"])
        for name, board in dashboards().items()
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]
