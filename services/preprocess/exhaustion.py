"""Errors of the operating system that are ours: this process or machine has run out of something."""

from __future__ import annotations

import errno
import os

from services.common.errors import Unavailable

# File handles, memory, room on a disk.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT})


def is_exhaustion(error: BaseException) -> bool:
    """Return whether `error`, or an error that it comes from, says that something of ours has run out."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _EXHAUSTED):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def has_file_handle() -> bool:
    """Return whether this process can open one more file. The C library's name lookup hides the reason of a failure."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def unavailable() -> Unavailable:
    return Unavailable(
        "The media cannot be processed at the moment. Send the request again.",
        code="media_processing_unavailable",
        retry_after_s=1,
    )
