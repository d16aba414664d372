"""The values that docs/ shows render without an error, and those that its sentences name exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.common.settings_check import settings_class
from tests.helm.cells import SERVICES
from tests.helm.render import HELM, template

DOCS = Path(__file__).parents[2] / "docs"
KEYS = {"global", "redis", "alerts", "dashboards", *SERVICES}
"""Keys at the top of the umbrella's values."""


def shown() -> list[tuple[str, str]]:
    """Return (name of the document, text) of each YAML block that holds values."""
    found: list[tuple[str, str]] = []
    for path in sorted(DOCS.glob("*.md")):
        for text in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            block: Any = yaml.safe_load(text)
            if isinstance(block, dict) and block.keys() <= KEYS:
                found.append((path.name, text))
    return found


@pytest.mark.parametrize(("name", "text"), shown(), ids=lambda part: part[:40])
def test_documented_values_render(name: str, text: str) -> None:
    ended = template("helm-4", "antiphon", yaml.safe_load(text))
    assert ended.returncode == 0, f"{name}: {ended.stderr}"


def test_some_values_are_documented() -> None:
    assert {"install.md", "sizing.md"} <= {name for name, _ in shown()}


def listed(chart: str) -> set[str]:
    """Return the values that the chart's README lists, groups of values among them."""
    return set(re.findall(r"^\| \*{0,2}`([\w.]+)`", (HELM / chart / "README.md").read_text(), re.MULTILINE))


def named(text: str) -> set[str]:
    """Return the dotted names that begin as a value of the umbrella chart does: in backticks, or behind --set."""
    first = "|".join(sorted(KEYS))
    return set(re.findall(rf"(?:`|--set )((?:{first})(?:\.\w+)+)(?=[`=:])", text))


def is_value(path: str) -> bool:
    service, _, rest = path.partition(".")
    if service not in SERVICES or path in listed("antiphon"):
        return path in listed("antiphon")
    setting = rest.removeprefix("settings.")
    # Without `settings.` it is one of the local stack's SET.
    return rest in listed(service) or setting in settings_class(service).model_fields


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_value_that_a_page_names_is_listed(page: Path) -> None:
    assert [path for path in sorted(named(page.read_text())) if not is_value(path)] == []


def test_values_are_found_in_sentences_and_commands() -> None:
    install = named((DOCS / "install.md").read_text())
    assert {"global.redis.passwordSecret.name", "scaler.podDeletionCost.enabled"} <= install
    assert not is_value("gateway.replica")
