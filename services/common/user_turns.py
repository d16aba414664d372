"""Which tokens of a prompt the user wrote: all that the talker is told of a conversation but for the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def in_user_turns(token_ids: Sequence[int], *, im_start: int, user: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for each token whether it is in a user turn, which goes from `im_start user` to the next im_start."""
    ids = np.asarray(token_ids, dtype=np.int64)
    starts = np.nonzero(ids == im_start)[0]
    roles = np.append(ids, -1)[starts + 1]
    turn = np.searchsorted(starts, np.arange(len(ids)), side="right")  # 0 = before the first one
    return np.concatenate(([False], roles == user))[turn]
