"""Checks services' settings before the services start: `python -m services.common.settings_check`.

Standard input is JSON, {service: {setting: value as text}}. Standard output is JSON too, a list of {"service",
"setting", "problem"}: each name that the service does not know, with the nearest one that it does, and each wrong
value, with what is accepted. `setting` is "" where only the settings together are wrong.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from services.common.settings import PREFIX, ProcessSettings

Problem = dict[str, str]
_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a JSON list",
    "object": "a JSON map",
}
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "over", "maximum": "up to", "exclusiveMaximum": "under"}


def settings_class(service: str) -> type[ProcessSettings]:
    """Return the class that the service's settings.py defines."""
    name = f"services.{service}.settings"
    module = importlib.import_module(name)
    (found,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ProcessSettings) and value.__module__ == name
    ]
    return found


def problems_of(service: str, given: Mapping[str, str]) -> list[Problem]:
    """Return what is wrong with the settings of one service. The environment holds none of them afterwards."""
    cls = settings_class(service)
    known = {name: value for name, value in given.items() if name in cls.model_fields}
    problems = [_problem(service, name, _unknown(name, list(cls.model_fields))) for name in given if name not in known]
    variables = {f"{PREFIX}{name.upper()}": value for name, value in known.items()}
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    os.environ.update(variables)
    try:
        cls()  # pyright: ignore[reportCallIssue]  # the environment gives the fields
    except ValidationError as error:
        fields = cls.model_json_schema()["properties"]
        for issue in error.errors(include_input=False, include_url=False):
            name = str(issue["loc"][0]) if issue["loc"] else ""
            own = issue["type"] == "value_error"  # a validator of ours says it best
            said = issue["msg"].removeprefix("Value error, ") if own or not name else f"wants {accepted(fields[name])}"
            problems.append(_problem(service, name, said))
    finally:
        for name in variables:
            del os.environ[name]
    return problems


def accepted(field: Mapping[str, Any]) -> str:
    """Say in words what a field's JSON schema takes."""
    either = [one for one in field.get("anyOf", ()) if one.get("type") != "null"]
    field = {**field, **(either[0] if either else {})}
    if "enum" in field:
        return f"one of {', '.join(map(str, field['enum']))}"
    words = [_KINDS.get(field.get("type", ""), "a text")]
    words += [f"{word} {_number(field[bound])}" for bound, word in _BOUNDS.items() if bound in field]
    about = field.get("description", "")
    return " ".join(words) + (f" ({about})" if about else "")


def _number(bound: float) -> str:
    """Return the number as one would type it: 67108864, not 6.71e+07."""
    return str(int(bound)) if float(bound).is_integer() else f"{bound:g}"


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"no such setting; the nearest is {near[0]}" if near else f"no such setting; known are {', '.join(known)}"


def _problem(service: str, setting: str, problem: str) -> Problem:
    return {"service": service, "setting": setting, "problem": problem}


if __name__ == "__main__":
    asked: dict[str, dict[str, str]] = json.load(sys.stdin)
    json.dump([problem for service in asked for problem in problems_of(service, asked[service])], sys.stdout)
