"""Which rows of a prompt the talker needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TurnTokens:
    """Ids, from the checkpoint's config, that tell turns and media apart."""

    im_start: int
    user: int
    media: frozenset[int]


def media_spans_of_user_turns(prompt_token_ids: Sequence[int], tokens: TurnTokens) -> list[tuple[int, int]]:
    """The media placeholder tokens inside user turns, as [start, end) spans in prompt order.

    A user turn goes from `im_start user` to the next im_start. System and assistant turns never reach the talker.
    """
    spans: list[tuple[int, int]] = []
    in_user_turn = False
    for position, token in enumerate(prompt_token_ids):
        if token == tokens.im_start:
            following = prompt_token_ids[position + 1] if position + 1 < len(prompt_token_ids) else None
            in_user_turn = following == tokens.user
        elif in_user_turn and token in tokens.media:
            if spans and spans[-1][1] == position:
                spans[-1] = (spans[-1][0], position + 1)
            else:
                spans.append((position, position + 1))
    return spans


def overlaps(spans: Sequence[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """What of `spans` lies in [start, end)."""
    return [(max(a, start), min(b, end)) for a, b in spans if a < end and b > start]


def count(spans: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in spans)
