"""The charts' READMEs have a line for every value, with its meaning and the default that Helm computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from helm.tools.readme import defaults, documented, with_icon
from helm.tools.schema import CHARTS
from tests.helm.cells import SERVICES
from tests.helm.render import HELM


def leaves(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, about in schema["properties"].items():
        if about.get("properties") and key != "settings":
            yield from leaves(about, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", about


@pytest.mark.parametrize("chart", CHARTS)
def test_every_value_is_described_and_listed(chart: str) -> None:
    page = (HELM / chart / "README.md").read_text()
    for path, about in leaves(documented(chart)):
        if path != "global.umbrella":
            assert about.get("description"), path
            assert f"| `{path}` |" in page


@pytest.mark.parametrize("chart", SERVICES)
def test_a_charts_own_default_wins(chart: str) -> None:
    own = yaml.safe_load((HELM / chart / "values.yaml").read_text())
    computed = defaults(chart)
    assert computed["resources"] == own["resources"]
    assert computed["drain_s"] == own.get("drain_s", 60)
    assert computed["global"]["redis"]["port"] == 6379


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_has_one_icon(chart: str) -> None:
    text = (HELM / chart / "Chart.yaml").read_text()
    assert yaml.safe_load(text)["icon"].startswith("data:image/svg+xml;base64,")
    assert with_icon(text) == text
