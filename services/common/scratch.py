"""Folders for sockets and the like that end with their process, or at the next start or end where it was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

PREFIX = "antiphon-"
_OWNER = "owner"
"""A file in each folder, locked by its process as long as it lives: the kernel drops the lock of a killed one."""


class ScratchDir:
    """A new folder in `parent`; folders there whose process is dead are removed first."""

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        remove_orphans(parent)
        # The folder gets its name once it is locked: until then no other process takes it for an orphan.
        new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
        self._lock = _lock(new / _OWNER, os.O_CREAT)
        self.path = new.rename(parent / new.name.removeprefix("."))

    def close(self) -> None:
        """Remove the folder, and those of processes that are dead by now. Doing so twice is harmless."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None
            # A killed process' children may have held its lock when the next process started.
            remove_orphans(self.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_orphans(parent: Path) -> None:
    """Remove this user's folders in `parent` that a process left behind when it was killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            about = folder.lstat()
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
                continue
            lock = _lock(folder / _OWNER)
        except OSError:  # without an owner's file it is not ours; or another process removes it right now
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(path: Path, flags: int = 0) -> int | None:
    """Return the file with its lock, or None where a living process holds it. Raise OSError where there is no file."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
