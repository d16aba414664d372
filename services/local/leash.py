"""Runs a command that ends when its parent does, even if the parent is killed: `leash.py PARENT_PID COMMAND …`.

The kernel sends it SIGTERM then (PR_SET_PDEATHSIG survives exec), so that a service drains and ends its own children.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was gone before the call above
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  # the command is the stack's own


if __name__ == "__main__":
    main()
