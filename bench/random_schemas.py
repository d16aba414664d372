"""Random JSON Schemas whose instances are short, so that a model of random weights comes to their end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

_DEEPEST = 3


def random_schema(seed: int) -> dict[str, Any]:
    """Return an object's schema. The same seed gives the same one."""
    return _object(random.Random(seed), 0)


def _object(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(["a", "name", "größe", "x-y", "is it?", "n0", "日"], draw.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: _any(draw, depth + 1) for name in names},
        "required": [name for name in names if draw.random() < 0.7],
        "additionalProperties": False,
    }


def _any(draw: random.Random, depth: int) -> dict[str, Any]:
    leaves: list[Callable[[], dict[str, Any]]] = [
        lambda: {"type": "string", "maxLength": draw.randint(0, 8)},
        lambda: {"type": "string", "pattern": draw.choice(["^[a-f]{2,5}$", "^(ja|nein)$", r"^\d{2}:\d{2}$"])},
        lambda: {"enum": draw.sample(["red", "grün", 3, True, None, "a b"], 3)},
        lambda: {"const": draw.choice(["fixed", 7, False])},
        lambda: {"type": "integer", "minimum": draw.randint(-50, 0), "maximum": draw.randint(1, 999)},
        lambda: {"type": "boolean"},
        lambda: {"type": "null"},
    ]
    branches: list[Callable[[], dict[str, Any]]] = [
        lambda: _object(draw, depth),
        lambda: {"type": "array", "items": _any(draw, depth + 1), "maxItems": draw.randint(1, 3)},
        lambda: {"anyOf": [_any(draw, depth + 1), _any(draw, depth + 1)]},
    ]
    return draw.choice(leaves + (branches if depth < _DEEPEST else []))()
