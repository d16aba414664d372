"""The values that docs/ shows render without an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.cells import SERVICES
from tests.helm.render import template

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
