"""The files of a Redis library are one text: a name that two of them define means the later one in both."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from services.common.queues import library as queues
from services.common.redis_functions import FunctionLibrary
from services.gateway.usage import script as usage

_DEFINED = re.compile(r"^local (?:function )?(\w+(?:, \w+)*)", re.MULTILINE)


@pytest.mark.parametrize("library", [queues.LIBRARY, usage.LIBRARY], ids=["queues", "usage"])
def test_no_name_is_defined_twice(library: FunctionLibrary) -> None:
    names = Counter(name for found in _DEFINED.findall(library.text) for name in found.split(", "))
    assert {name for name, count in names.items() if count > 1} == set()
