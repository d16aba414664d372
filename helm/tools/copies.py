"""Copy into the charts what other files define: the sizes, the alert rules, the dashboards, the script that makes
Secrets, and which services use Redis; the sizes also into docs.

`python -m helm.tools.copies` writes them; with `--check` it names those that differ and ends with status 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from helm.tools.schema import value_paths
from helm.tools.service_settings import redis_users
from services.sizing.chart import TARGET, sizing_table
from services.sizing.document import PAGE, page_with_tables

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "helm/antiphon/files"
LIBRARY = ROOT / "helm/lib"


def wanted() -> dict[Path, str]:
    """Target → text."""
    templates = LIBRARY / "templates"
    found = {ROOT / TARGET: sizing_table(), templates / "_value_paths.tpl": value_paths()}
    found[templates / "_make_secret.tpl"] = make_secret()
    found[templates / "_redis_users.tpl"] = redis_users()
    found[ROOT / PAGE] = page_with_tables((ROOT / PAGE).read_text())
    alerts = ROOT / "deploy/prometheus/alerts.yaml"
    if alerts.exists():
        found[FILES / alerts.name] = alerts.read_text()
    for board in sorted((ROOT / "deploy/grafana").glob("*.json")):
        found[FILES / "dashboards" / board.name] = board.read_text()
    return found


def make_secret() -> str:
    """Return the script as a template: a chart can't read the files of its library."""
    text = (LIBRARY / "files/make_secret.py").read_text()
    about = "{{- /* Generated from lib/files/make_secret.py by `make generated`: do not edit. */ -}}\n"
    return f'{about}{{{{- define "antiphon-lib.make-secret" -}}}}\n{{{{ `{text}` }}}}\n{{{{- end }}}}\n'


def stale() -> list[Path]:
    """Targets that are missing or differ."""
    return [target for target, text in wanted().items() if not target.exists() or target.read_text() != text]


def main(arguments: list[str]) -> int:
    differ = stale()
    if "--check" in arguments:
        for target in differ:
            sys.stderr.write(f"{target.relative_to(ROOT)} differs from its source: run make generated\n")
        return 1 if differ else 0
    for target in differ:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(wanted()[target])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
