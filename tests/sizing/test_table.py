"""The documented table, cell by cell."""

from __future__ import annotations

import pytest

from services.sizing.table import documented_gib, talker_gib, talker_stream_gib, thinker_gib

# As the model's documents print it.
PRINTED = """
Instruct   78.85  88.52  107.74  144.81
Thinking   68.74  77.79   95.76  131.65
"""
DIFFERENCE = {15: 10.11, 30: 10.73, 60: 11.98, 120: 13.16}
CELLS = [
    (row.split()[0].lower(), video_s, float(cell))
    for row in PRINTED.strip().splitlines()
    for video_s, cell in zip((15, 30, 60, 120), row.split()[1:], strict=True)
]


@pytest.mark.parametrize(("model", "video_s", "gib"), CELLS)
def test_every_cell_is_as_printed(model: str, video_s: int, gib: float) -> None:
    assert documented_gib(model, video_s) == gib


@pytest.mark.parametrize(("video_s", "gib"), DIFFERENCE.items())
def test_the_talker_is_the_difference_and_the_parts_are_the_whole(video_s: int, gib: float) -> None:
    assert talker_gib(video_s) == gib
    assert thinker_gib("instruct", video_s) + talker_gib(video_s) == pytest.approx(documented_gib("instruct", video_s))


def test_the_captioner_is_taken_as_thinking_at_15_s() -> None:
    assert thinker_gib("captioner", 15) == documented_gib("thinking", 15)


def test_a_longer_video_costs_a_talker_more_for_each_stream() -> None:
    costs = [talker_stream_gib(video_s) for video_s in (15, 30, 60, 120)]
    assert costs == sorted(costs)
    assert costs[0] == pytest.approx(0.62)
