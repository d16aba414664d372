"""Write the tables of all settings into docs/settings.md: `python -m deploy.settings_table`. A test compares them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from helm.tools.service_settings import SERVICES
from services.common.marked import with_part
from services.common.settings import PREFIX
from services.common.settings_check import accepted, settings_class

PAGE = Path(__file__).parents[1] / "docs/settings.md"
_LONGEST_DEFAULT = 60
"""Characters; the meaning describes a longer one."""
_SIZES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


@dataclass(frozen=True)
class Row:
    """One setting as a service has it."""

    name: str
    default: str
    takes: str
    about: str

    def __str__(self) -> str:
        cells = (f"`{PREFIX}{self.name.upper()}`", self.default, self.takes, self.about.replace("|", "\\|"))
        return f"| {' | '.join(cells)} |"


def rows(service: str) -> Iterator[Row]:
    """Yield the service's settings, in the order of its settings.py."""
    settings = settings_class(service)
    schema = settings.model_json_schema()["properties"]
    for name, field in settings.model_fields.items():
        takes = accepted({**schema[name], "description": ""})
        yield Row(name, _default(name, field), takes, field.description or "")


def tables() -> str:
    """Return a section with a table for each group of services that have the same settings, the largest group first."""
    having: dict[Row, list[str]] = {}
    for service in SERVICES:
        for row in rows(service):
            having.setdefault(row, []).append(service)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row, services in having.items():
        groups.setdefault(tuple(services), []).append(row)
    text = ""
    for services in sorted(groups, key=len, reverse=True):
        *first, last = services
        title = "Every service" if services == SERVICES else f"{', '.join(first)} and {last}" if first else last
        text += f"### {title[:1].upper()}{title[1:]}\n| setting | default | takes | meaning |\n|---|---|---|---|\n"
        text += "".join(f"{row}\n" for row in groups[services]) + "\n"
    return text.removesuffix("\n")


def with_tables(page: str) -> str:
    return with_part(page, "settings", tables())


def _default(name: str, field: FieldInfo) -> str:
    """Return the default as the variable would have it, in a cell."""
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "**needed**"
    if isinstance(value, SecretStr) or value is None or value == "":
        return "—"
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value
    text = str(value) if isinstance(value, str | Path) else json.dumps(value)
    if len(text) > _LONGEST_DEFAULT:
        return "…"
    return f"`{text}`{_size(value) if name.endswith('_bytes') and isinstance(value, int) else ''}"


def _size(value: int) -> str:
    return next((f" ({value // size} {unit})" for unit, size in _SIZES if value and value % size == 0), "")


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
    sys.stdout.write(f"wrote {PAGE.name}\n")
