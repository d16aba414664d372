"""Checks that a client's JSON Schema is one, before anything is done for its request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from services.common.errors import BadInput

MAX_BYTES = 64 * 1024
MAX_NESTING = 64
MAX_VALUES = 4096


def schema_text(schema: Mapping[str, Any], path: str) -> str:
    """Return the text of a JSON Schema. Raise BadInput where it is too large, nested too deep, or no JSON Schema.

    It takes some milliseconds for a large one: call it off the event loop.
    """
    _check_size(schema, path)
    text = json.dumps(schema, ensure_ascii=False)
    if len(text.encode()) > MAX_BYTES:
        raise BadInput(f"Invalid '{path}': the schema is larger than {MAX_BYTES} bytes.", param=path)
    validator: Any = validator_for(schema, default=Draft202012Validator)
    error = next(islice(validator(validator.META_SCHEMA).iter_errors(schema), 1), None)
    if error is not None:
        where = path + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.absolute_path)
        raise BadInput(f"Invalid '{where[:200]}': this is not valid in a JSON Schema.", param=where[:200])
    return text


def _check_size(schema: Mapping[str, Any], path: str) -> None:
    level: list[Any] = [schema]
    values = 0
    for _ in range(MAX_NESTING):
        level = [
            child
            for node in level
            if isinstance(node, Mapping | list)
            for child in (node.values() if isinstance(node, Mapping) else node)
        ]
        values += len(level)
        if not level:
            return
        if values > MAX_VALUES:
            raise BadInput(f"Invalid '{path}': the schema holds more than {MAX_VALUES} values.", param=path)
    raise BadInput(f"Invalid '{path}': the schema is nested deeper than {MAX_NESTING} levels.", param=path)
