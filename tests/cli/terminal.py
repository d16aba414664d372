"""A pseudo-terminal with `antiphon` in it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from typing import Self

from tests.fixtures.wait import HANGS_AFTER_S

_WITHIN_S = HANGS_AFTER_S
# Longer than an end takes: a second Ctrl-C would interrupt it.
_AGAIN_S = 10.0
# Makes the terminal the process' own, so that Ctrl-C reaches it.
_START = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from services.cli.__main__ import main
sys.exit(main())
"""
_COMMANDS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """Runs a command with all its streams at the terminal. `screen` is what has appeared, without colours."""

    def __init__(self, *arguments: str) -> None:
        self.screen = ""
        self._seen = 0
        self._ours, theirs = pty.openpty()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "INPUTRC": os.devnull},
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, text: str) -> str:
        """Wait until `text` appears, and return what appeared before it since the last such wait."""
        deadline_s = time.monotonic() + _WITHIN_S
        while (at := self.screen.find(text, self._seen)) < 0:
            if not self._read(deadline_s):
                raise AssertionError(f"{text!r} never appeared:\n{self.screen}")
        before = self.screen[self._seen : at]
        self._seen = at + len(text)
        return before

    def ended(self) -> int:
        """Wait for the end and return its status."""
        deadline_s = time.monotonic() + _WITHIN_S
        while self._read(deadline_s):
            pass
        return self._process.wait(_WITHIN_S)

    def interrupted(self) -> int:
        """Press Ctrl-C until the process ends, and return its status.

        Python does not see one that comes between its prompt and its wait for a key, before the next key.
        """
        deadline_s = time.monotonic() + _WITHIN_S
        while self._process.poll() is None and time.monotonic() < deadline_s:
            self.type(CTRL_C)
            again_s = time.monotonic() + _AGAIN_S
            while self._read(again_s):
                pass
        return self._process.wait(_WITHIN_S)

    def _read(self, deadline_s: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline_s - time.monotonic()))
        try:
            data = os.read(self._ours, 65536) if ready else b""
        except OSError:  # Linux' way to say that nobody has the terminal open any more
            data = b""
        self.screen += _COMMANDS.sub("", data.decode(errors="replace"))
        return bool(data)
