"""Schema of a chart's `settings`, from the class that reads them. Helm refuses what the service would refuse."""

from __future__ import annotations

import json
from typing import Any

from services.common.settings_check import settings_class

Schema = dict[str, Any]
SERVICES = ("gateway", "preprocess", "thinker", "talker", "scaler", "control")
_KEPT = ("description", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "pattern")
_PLAIN = frozenset({"integer", "number", "boolean"})


def settings_schema(service: str) -> Schema:
    """Return the schema of all settings by name. Other names are refused."""
    fields = settings_class(service).model_json_schema()["properties"]
    return {"additionalProperties": False, "properties": {name: _variable(field) for name, field in fields.items()}}


def redis_users() -> str:
    """Return a template with the list of the services that use Redis: those with a setting for its URL."""
    found = [service for service in SERVICES if "redis_url" in settings_class(service).model_fields]
    text = "{{- /* Generated from the services' settings.py by `make generated`: do not edit. */ -}}\n"
    return f'{text}{{{{- define "antiphon-lib.redis-users" -}}}}\n{json.dumps(found)}\n{{{{- end }}}}\n'


def _variable(field: Schema) -> Schema:
    """Return the schema of one variable. It is text: numbers may be text, and lists and maps are JSON."""
    either = [one for one in field.get("anyOf", ()) if one["type"] != "null"]
    field = field | (either[0] if either else {})
    shown = {key: field[key] for key in _KEPT if key in field}
    return {"type": [field["type"], "string"] if field["type"] in _PLAIN else "string", **shown}
