"""The custom_id of a line is found chunk by chunk as a JSON parser finds it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.batches.custom_id import CustomIdFinder

_IDS = st.text(min_size=1, max_size=20)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("custom_id"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("custom_id"), inner),
    max_leaves=8,
)


def found(line: bytes, chunk_bytes: int) -> str:
    finder = CustomIdFinder()
    for at in range(0, len(line), chunk_bytes):
        finder.add(line[at : at + chunk_bytes])
    return finder.found


@given(_IDS, st.lists(st.tuples(st.text(max_size=4), _VALUES), max_size=3), st.booleans(), st.integers(1, 40))
def test_it_is_that_of_the_lines_own_object(
    custom_id: str, others: list[tuple[str, Any]], is_ascii: bool, chunk_bytes: int
) -> None:
    values = dict(others) | {"custom_id": custom_id} | {"body": {"custom_id": "another"}}
    line = json.dumps(values, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    assert found(line, chunk_bytes) == custom_id


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"custom_id": "a", "custom_id": "b"}', "b"),
        (b'{"body": ["custom_id", {"custom_id": "x"}], "custom_id" : "\\"}, {"}', '"}, {'),
        (b'{"custom\\u005fid": "a"}', "a"),
        (b'{"custom_id": 5}', ""),
        (b'{"custom_id": "\\x"}', ""),
        (b'{"a": "custom_id", "b": "c"}', ""),
        (b"not JSON", ""),
        (b'{"body": "' + b"a" * 100_000 + b'", "custom_id": "' + "😀".encode() * 512 + b'"}', "😀" * 512),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 20])
def test_lines(line: bytes, expected: str, chunk_bytes: int) -> None:
    assert found(line, chunk_bytes) == expected
