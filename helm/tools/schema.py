"""Write the values.schema.json of every chart from the comments in its values.yaml.

    # Text that becomes the description.
    # @schema {minimum: 1}
    replicas: 2

The type is the value's own. What follows `@schema` (YAML on one line) is added to it or replaces it. A bare word is
a name in NAMED. A map takes only the keys that it shows, unless its `@schema` says `additionalProperties`. A chart also
takes what it imports from the library (`import-values` in Chart.yaml). The names and bounds of a service's `settings`
come from its settings.py.

`global` is checked once: by the umbrella where there is one (it sets global.umbrella), else by the service's chart.

`python -m helm.tools.schema` writes the files; with `--check` it names those that differ and ends with status 1.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml

from helm.tools.service_settings import SERVICES, settings_schema

HELM = Path(__file__).resolve().parents[1]
CHARTS = ("lib", *SERVICES, "antiphon")

Schema = dict[str, Any]
_KEY = re.compile(r"^( *)([A-Za-z0-9_-]+):(.*)$")
_MARK = "@schema "
_IPV4 = r"([0-9]{1,3}[.]){3}[0-9]{1,3}/([0-9]|[12][0-9]|3[0-2])"
_CIDR = {"type": "string", "pattern": f"^({_IPV4}|[0-9a-fA-F:]*:[0-9a-fA-F:]*/[0-9]{{1,3}})$"}
_SELECTOR = {"type": "object"}
_OPEN = {"items": {"type": "object", "required": ["name"]}}
NAMED: dict[str, dict[str, Any]] = {
    "cidrs": {"items": _CIDR},
    "peers": {
        "items": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "podSelector": _SELECTOR,
                "namespaceSelector": _SELECTOR,
                "ipBlock": {
                    "type": "object",
                    "required": ["cidr"],
                    "additionalProperties": False,
                    "properties": {"cidr": _CIDR, "except": {"type": "array", "items": _CIDR}},
                },
            },
        }
    },
    "named": _OPEN,
    "objects": {"items": {"type": "object"}},
    "texts": {"additionalProperties": {"type": "string"}},
}
"""What several values are: CIDRs, peers of a NetworkPolicy, lists of things with a name, objects, maps of text."""
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


class UnclearError(Exception):
    """A comment or value without a clear schema. The message names the file and the key."""


def read_comments(text: str) -> dict[tuple[str, ...], list[str]]:
    """Map the path of each key to the comment lines right above it, without their marks."""
    found: dict[tuple[str, ...], list[str]] = {}
    path: list[tuple[int, str]] = []
    above: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("#"):
            above.append(bare[1:].removeprefix(" "))
        elif (match := _KEY.match(line)) and not bare.startswith("- "):
            indent = len(match[1])
            path = [step for step in path if step[0] < indent] + [(indent, match[2])]
            found.setdefault(tuple(name for _, name in path), above)
            above = []
        else:
            above = []
    return found


def schema_of(value: Any, comments: dict[tuple[str, ...], list[str]], path: tuple[str, ...], where: str) -> Schema:
    """The schema of `value` at `path`. Raises UnclearError."""
    about = comments.get(path, [])
    schema: Schema = {"type": _TYPES[type(value)]} if value is not None else {}
    description = " ".join(line for line in about if not line.startswith(_MARK)).strip()
    if description:
        schema["description"] = description
    given: Schema = {}
    for line in about:
        if line.startswith(_MARK):
            given |= _read_mark(line, where, path)
    if isinstance(value, dict) and "additionalProperties" not in given:
        if not value and path:
            raise UnclearError(f"{where}: {'.'.join(path)} is an empty map without additionalProperties in @schema")
        items = cast("dict[str, Any]", value).items()
        schema["additionalProperties"] = False
        schema["properties"] = {key: schema_of(item, comments, (*path, key), where) for key, item in items}
    if isinstance(value, list) and "items" not in given:
        raise UnclearError(f"{where}: {'.'.join(path)} is a list without items in @schema")
    if "enum" in given:
        schema.pop("type", None)
    return schema | given


def _read_mark(line: str, where: str, path: tuple[str, ...]) -> Schema:
    given = yaml.safe_load(line.removeprefix(_MARK))
    if isinstance(given, str) and given in NAMED:
        return NAMED[given]
    if not isinstance(given, dict):
        raise UnclearError(f"{where}: @schema of {'.'.join(path)} is no map")
    return cast("Schema", given)


def chart_schema(chart: str) -> Schema:
    """The schema of a chart's own values, of what it imports, and of what Helm puts beside them."""
    schema = _own(chart)
    library = _own("lib")["properties"]
    shared = library["global"] | {"properties": library["global"]["properties"] | {"umbrella": {"const": True}}}
    if chart == "lib":
        schema["properties"] |= {"enabled": {"type": "boolean"}, "global": {"type": "object"}}
    else:
        about = yaml.safe_load((HELM / chart / "Chart.yaml").read_text())
        for dependency in about["dependencies"]:
            for imported in dependency.get("import-values", ()):
                if imported["child"] != "global":
                    _merge(schema, library[imported["child"]], imported["parent"])
        schema["properties"] |= {"global": {"type": "object"}, "antiphon-lib": {"type": "object"}}
    if chart in SERVICES:
        schema["if"] = {"properties": {"global": {"required": ["umbrella"]}}, "required": ["global"]}
        schema["else"] = {"properties": {"global": shared}}
        about = schema["properties"]["settings"]["description"]
        schema["properties"]["settings"] = {"type": "object", "description": about} | settings_schema(chart)
    if chart == "antiphon":
        schema["properties"]["global"] = shared
        for service in SERVICES:  # each checked by its own chart's schema
            schema["properties"][service] = {"type": "object"}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": chart} | schema


def _own(chart: str) -> Schema:
    path = HELM / chart / "values.yaml"
    text = path.read_text()
    value = yaml.safe_load(text)
    if chart == "antiphon":
        value = {key: item for key, item in value.items() if key not in (*SERVICES, "global")}
    return schema_of(value, read_comments(text), (), str(path.relative_to(HELM)))


def _merge(schema: Schema, imported: Schema, parent: str) -> None:
    """Add the keys of an imported map at `parent`. The chart's own keys win."""
    target = schema
    if parent != ".":
        target = schema["properties"].setdefault(parent, {"type": "object", "properties": {}})
        target.setdefault("additionalProperties", False)
    for key, about in imported["properties"].items():
        own = target["properties"].get(key)
        if own is not None and "properties" in own and "properties" in about:
            _merge(own, about, ".")
        else:
            target["properties"][key] = about | (own or {})


def value_paths() -> str:
    """Templates with the paths of a chart's values, to refuse those that are given as null; `global` by itself."""
    schemas = {chart: chart_schema(chart)["properties"] for chart in CHARTS if chart != "lib"}
    schemas["antiphon"].pop("global")
    schemas["global"] = {"global": _own("lib")["properties"]["global"]}
    text = "{{- /* Generated from the values.yaml files by `make generated`: do not edit. */ -}}\n"
    for name, properties in schemas.items():
        paths = json.dumps(sorted(_paths({"properties": properties})))
        text += f'{{{{- define "antiphon-lib.value-paths-of-{name}" -}}}}\n{paths}\n{{{{- end }}}}\n'
    return text


def _paths(schema: Schema, prefix: str = "") -> Iterator[str]:
    for key, about in schema["properties"].items():
        if not prefix and "properties" not in about and key in ("global", "antiphon-lib", *SERVICES):
            continue
        if about.get("additionalProperties") is False and key != "settings":
            yield from _paths(about, f"{prefix}{key}.")
        elif key != "umbrella":
            yield f"{prefix}{key}"


def rendered(chart: str) -> str:
    return json.dumps(chart_schema(chart), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    differ = [chart for chart in CHARTS if _read(chart) != rendered(chart)]
    if "--check" in arguments:
        for chart in differ:
            sys.stderr.write(f"helm/{chart}/values.schema.json differs from the comments: run make generated\n")
        return 1 if differ else 0
    for chart in differ:
        (HELM / chart / "values.schema.json").write_text(rendered(chart))
    return 0


def _read(chart: str) -> str:
    path = HELM / chart / "values.schema.json"
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
