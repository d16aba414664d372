"""Write the table of all metrics into docs/observability.md: `python -m deploy.metrics_table`. A test compares it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from services.common.marked import with_part

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/observability.md"
MODULES = (
    "services.gateway.metrics",
    "services.common.memory_budget",
    "services.common.redis_client",
    "services.preprocess.metrics",
    "services.thinker.metrics",
    "services.talker.metrics",
    "services.scaler.metrics",
    "services.control.metrics",
)


def table() -> str:
    """Return a Markdown table of every metric that the modules declare, under the names that PromQL uses."""
    for module in MODULES:
        if (ROOT / f"{module.replace('.', '/')}.py").exists():
            importlib.import_module(module)
    collectors: Iterable[Any] = getattr(REGISTRY, "_collector_to_names")  # noqa: B009  # it has no public name
    rows: list[str] = []
    for collector in collectors:
        labels: tuple[str, ...] = getattr(collector, "_labelnames", ())
        for metric in collector.describe() if hasattr(collector, "describe") else ():
            if metric.name.startswith("antiphon_"):
                name = f"{metric.name}_total" if metric.type == "counter" else metric.name
                text = metric.documentation.rstrip(".")
                told = f"{text[:1].upper()}{text[1:]}."
                rows.append(f"| `{name}` | {metric.type} | {', '.join(labels) or '—'} | {told} |")
    return "\n".join(["| metric | type | labels | what it says |", "|---|---|---|---|", *sorted(rows)]) + "\n"


def with_table(page: str, rows: str) -> str:
    return with_part(page, "metrics", rows)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(), table()))
    sys.stdout.write(f"wrote {PAGE.name}\n")
