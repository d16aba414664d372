"""Write the README.md and the icon of every chart from its Chart.yaml, values.yaml and schema.

`python -m helm.tools.readme` writes them; with `--check` it names those that differ and ends with status 1.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml

from helm.tools.schema import CHARTS, HELM, SERVICES, Schema, chart_schema

Values = dict[str, Any]
_ICON = HELM / "icon.svg"
_INSTALL = """## Install
```sh
{install}
```

[docs/install.md](../../docs/install.md) explains each step. Helm refuses unknown values and values that cannot work.
"""
_LIBRARY = """Installs nothing by itself. The charts of the services import these values: `global` as it is, `common` at
their top level, `scaling` as `autoscaling`.
"""


def readme(chart: str) -> str:
    """Return the page of one chart."""
    about = yaml.safe_load((HELM / chart / "Chart.yaml").read_text())
    parts = [f"# {chart}\n", f"{about['description'].strip()}\n"]
    if chart == "lib":
        parts.append(_LIBRARY)
    else:
        where = "antiphon helm/antiphon" if chart == "antiphon" else f"antiphon-{chart} helm/{chart}"
        parts.append(f"Needs Kubernetes {about['kubeVersion'].removeprefix('>=').removesuffix('.0-0')} or later.\n")
        parts.append(_INSTALL.format(install=f"helm install {where} --namespace antiphon --values values.yaml"))
    parts.append("## Values\n")
    if chart == "antiphon":
        links = ", ".join(f"[`{service}`](../{service}/README.md)" for service in SERVICES)
        parts.append(f"The values of the services stand under their names: {links}.\n")
    parts.append(table(documented(chart), defaults(chart)))
    parts.append("\nThis page is generated from `values.yaml` by `make generated`.\n")
    return "\n".join(parts)


def documented(chart: str) -> Schema:
    """Return the schema of all values that a user sets, including `global`."""
    schema = chart_schema(chart)
    hidden = {"antiphon-lib", *(SERVICES if chart == "antiphon" else ()), *(("enabled",) if chart == "lib" else ())}
    properties = {key: about for key, about in schema["properties"].items() if key not in hidden}
    properties["global"] = chart_schema("antiphon")["properties"]["global"]
    return {"properties": properties}


def defaults(chart: str) -> Values:
    """Return the values that Helm computes when the user gives none."""
    library = _values("lib")
    own = _values(chart)
    if chart == "lib":
        return own
    found: Values = {"global": library["global"]}
    for dependency in yaml.safe_load((HELM / chart / "Chart.yaml").read_text())["dependencies"]:
        for imported in dependency.get("import-values", ()):
            given = library[imported["child"]]
            found = _over(found, given if imported["parent"] == "." else {imported["parent"]: given})
    return _over(found, own)


def _values(chart: str) -> Values:
    return yaml.safe_load((HELM / chart / "values.yaml").read_text())


def _over(below: Values, above: Values) -> Values:
    both = dict(below)
    for key, value in above.items():
        under = both.get(key)
        if isinstance(value, dict) and isinstance(under, dict):
            both[key] = _over(cast("Values", under), cast("Values", value))
        else:
            both[key] = value
    return both


def table(schema: Schema, values: Values) -> str:
    """Return a row for each value. The description of a map stands above its keys."""
    rows = [f"| {' | '.join(row)} |" for row in _rows(schema, values, "")]
    return "\n".join(["| value | default | what it is |", "|---|---|---|", *rows]) + "\n"


def _rows(schema: Schema, values: Values, prefix: str) -> Iterator[tuple[str, str, str]]:
    for key in sorted(schema["properties"], key=lambda name: (name == "global", name)):
        about, path = schema["properties"][key], f"{prefix}{key}"
        if path == "global.umbrella":
            continue
        text = _cell(about.get("description", ""))
        inner = about.get("properties")
        if inner and key != "settings":
            if text:
                yield f"**`{path}`**", "", text
            yield from _rows(about, values.get(key, {}), f"{path}.")
        else:
            default = json.dumps(values.get(key), ensure_ascii=False)
            yield f"`{path}`", f"`{_cell(default)}`", " ".join(filter(None, (text, _accepted(about))))


def _accepted(about: Schema) -> str:
    if "enum" in about:
        return f"One of {', '.join(f'`{json.dumps(one)}`' for one in about['enum'])}."
    least, most = about.get("minimum"), about.get("maximum")
    if least is not None and most is not None:
        return f"{least} to {most}."
    if least is not None:
        return f"At least {least}."
    return ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def with_icon(text: str) -> str:
    """Return a Chart.yaml with the icon as a data URL."""
    icon = base64.b64encode(_ICON.read_bytes().strip()).decode()
    line = f"icon: data:image/svg+xml;base64,{icon}\n"
    if "\nicon: " in text:
        return re.sub(r"\nicon: .*\n", f"\n{line}", text)
    return re.sub(r"(?m)^type: ", f"{line}type: ", text, count=1)


def wanted() -> dict[Path, str]:
    """File → its text."""
    found = {HELM / chart / "README.md": readme(chart) for chart in CHARTS}
    for chart in CHARTS:
        path = HELM / chart / "Chart.yaml"
        found[path] = with_icon(path.read_text())
    return found


def main(arguments: list[str]) -> int:
    texts = wanted()
    differ = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    if "--check" in arguments:
        for path in differ:
            sys.stderr.write(f"{path.relative_to(HELM.parent)} differs from its sources: run make generated\n")
        return 1 if differ else 0
    for path in differ:
        path.write_text(texts[path])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
