"""Events as no client should send them, made of a dialect's own words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Message = str | bytes


def any_values(words: Sequence[str], fields: Sequence[str]) -> st.SearchStrategy[Any]:
    """Values of JSON."""
    return st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats()
        | st.sampled_from(words)
        | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(fields), inner, max_size=6),
        max_leaves=24,
    )


def any_fields(words: Sequence[str], fields: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the fields, with any values."""
    return st.dictionaries(st.sampled_from(fields), any_values(words, fields), max_size=6)


def any_messages(kinds: Sequence[str], words: Sequence[str], fields: Sequence[str]) -> st.SearchStrategy[Message]:
    """Events of these kinds, and messages that are none."""
    events = st.builds(
        lambda kind, given: json.dumps({**given, "type": kind}), st.sampled_from(kinds), any_fields(words, fields)
    )
    return events | st.text(max_size=40) | st.binary(max_size=40) | any_values(words, fields).map(json.dumps)


def drawn(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Return examples. All are drawn first: Hypothesis wants nobody else to use random numbers meanwhile."""
    tried: list[Any] = []

    @settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(strategy)
    def draw(example: Any) -> None:
        tried.append(example)

    draw()
    return tried
