"""Bounds the length of strings by patterns.

xgrammar 0.2.8 allows raw control characters in a string with minLength or maxLength, and such text is no JSON. In a
string with a pattern it allows none.
"""

from __future__ import annotations

from typing import Any


def with_lengths_as_patterns(schema: Any) -> Any:
    """Return the JSON Schema with a pattern in place of each minLength and maxLength that has none beside it."""
    if isinstance(schema, list):
        return [with_lengths_as_patterns(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    least, most = schema.get("minLength"), schema.get("maxLength")
    # Where it is not a number, it is a property of this name.
    bounds = {name for name, value in (("minLength", least), ("maxLength", most)) if isinstance(value, int)}
    kept = {name: with_lengths_as_patterns(value) for name, value in schema.items() if name not in bounds}
    if bounds and not kept.keys() & {"pattern", "format", "enum", "const"}:
        kept["pattern"] = f"^.{{{least or 0},{'' if most is None else most}}}$"
    return kept
