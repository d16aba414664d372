"""Places that tenants share: each may have eight times what is free, so that others always find some."""

from __future__ import annotations

_TIMES_WHAT_IS_FREE = 8
MOST_SHARE = _TIMES_WHAT_IS_FREE / (_TIMES_WHAT_IS_FREE + 1)
"""What one tenant takes of all places where no other has any."""


def leaves_room(has: int, all_have: int, most: int) -> bool:
    """Return whether a tenant that has `has` of `most` places may take one more, so that others still find one. The
    queues do the same: see `most_of_tenant` in queues/lua/gateways.lua."""
    return has < _TIMES_WHAT_IS_FREE * (most - all_have)
