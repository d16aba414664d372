"""Which hidden states of a prompt the talker needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.common.user_turns import in_user_turns


@dataclass(frozen=True)
class TurnTokens:
    """Ids, from the checkpoint's config, that tell turns and media apart."""

    im_start: int
    user: int
    media: frozenset[int]


def media_spans_of_user_turns(prompt_token_ids: Sequence[int], tokens: TurnTokens) -> list[tuple[int, int]]:
    """Return the media placeholder tokens inside user turns, as [start, end) spans in prompt order.

    System and assistant turns never reach the talker.
    """
    wanted = in_user_turns(prompt_token_ids, im_start=tokens.im_start, user=tokens.user)
    wanted &= np.isin(np.asarray(prompt_token_ids), list(tokens.media))
    edges = np.flatnonzero(np.diff(np.concatenate(([False], wanted, [False]))))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def overlaps(spans: Sequence[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """What of `spans` lies in [start, end)."""
    return [(max(a, start), min(b, end)) for a, b in spans if a < end and b > start]


def count(spans: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in spans)
