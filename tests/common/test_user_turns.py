"""Which tokens belong to user turns."""

from __future__ import annotations

import pytest

from services.common.user_turns import in_user_turns

START, USER, OTHER = 1, 2, 3


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        ([], []),
        ([USER, 9], [False, False]),
        ([START], [False]),
        ([START, USER], [True, True]),
        ([START, OTHER, 9, START, USER, 9, USER, START, OTHER, 9], [False] * 3 + [True] * 4 + [False] * 3),
        ([9, START, USER, 9, START, USER, START], [False, *[True] * 5, False]),
    ],
)
def test_a_user_turn_goes_from_its_marker_to_the_next(ids: list[int], wanted: list[bool]) -> None:
    assert in_user_turns(ids, im_start=START, user=USER).tolist() == wanted
