"""The documented table, cell by cell."""

from __future__ import annotations

import pytest

from services.preprocess.limits import MediaLimits
from services.preprocess.media.sampling import DEFAULT_FPS, FRAME_FACTOR, MAX_TOKENS
from services.sizing.table import ITEM_TOKENS, VIDEO_TOKENS_PER_S, documented_gib, prompt_tokens, thinker_gib

# As printed in the model's documents.
PRINTED = """
Instruct   78.85  88.52  107.74  144.81
Thinking   68.74  77.79   95.76  131.65
"""
CELLS = [
    (row.split()[0].lower(), video_s, float(cell))
    for row in PRINTED.strip().splitlines()
    for video_s, cell in zip((15, 30, 60, 120), row.split()[1:], strict=True)
]


@pytest.mark.parametrize(("model", "video_s", "gib"), CELLS)
def test_every_cell_equals_the_printed_one(model: str, video_s: int, gib: float) -> None:
    assert documented_gib(model, video_s) == gib


@pytest.mark.parametrize(("video_s", "tokens"), [(15, 11_715), (30, 23_430), (60, 33_548), (120, 34_328)])
def test_a_longer_film_has_more_tokens_up_to_the_limit(video_s: int, tokens: int) -> None:
    assert prompt_tokens(video_s) == tokens


def test_a_films_tokens_follow_the_limits_of_preprocess() -> None:
    assert (MAX_TOKENS * DEFAULT_FPS / FRAME_FACTOR, MediaLimits().item_tokens) == (VIDEO_TOKENS_PER_S, ITEM_TOKENS)


def test_the_captioner_counts_as_thinking_at_15_s() -> None:
    assert thinker_gib("captioner", 15) == documented_gib("thinking", 15)
