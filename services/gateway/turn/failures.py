"""When several tasks of one turn fail together: which failure is the cause."""

from __future__ import annotations

from services.common.errors import AntiphonError, Unavailable, leaves


def gravest(group: ExceptionGroup[Exception]) -> AntiphonError | None:
    """What the client is told: the first known error, a loss only where nothing else tells why. None = all unknown."""
    known = [error for error in leaves(group) if isinstance(error, AntiphonError)]
    return min(known, key=lambda error: isinstance(error, Unavailable), default=None)
