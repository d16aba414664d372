"""The layers between a decoder that a file has taken over and everything that it must not reach.

Each is used where the kernel grants it, and each refuses by itself what it covers:

| layer               | refuses                                                                                  |
| ------------------- | ---------------------------------------------------------------------------------------- |
| `user`              | memory and /proc of the service; where the service is root, also signals and root's files |
| `pid-namespace`     | seeing, signalling or tracing any process of the service                                 |
| `network-namespace` | every network, and abstract Unix sockets                                                 |
| `ipc-namespace`     | System V shared memory and message queues                                                |
| `mount-namespace`   | every file: its root is an empty, read-only file system                                  |
| `landlock`          | every file; new TCP connections, signals and tracing where the kernel is new enough       |
| `seccomp`           | every system call that decoding does not need: files, sockets, programs, processes        |
| `rlimits`           | memory, file sizes, open files and core dumps over their bounds                          |

A process also drops all capabilities, refuses new privileges and hides its memory. Every kernel grants that.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Layer(StrEnum):
    USER = "user"
    PID_NAMESPACE = "pid-namespace"
    NETWORK_NAMESPACE = "network-namespace"
    IPC_NAMESPACE = "ipc-namespace"
    MOUNT_NAMESPACE = "mount-namespace"
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"
    RLIMITS = "rlimits"


ALL = frozenset(Layer)

Granted = dict[Layer, str]
"""{layer: why it is not on}; "" where it is on."""


class IsolationMissing(Exception):
    """The kernel does not grant a layer that is required. The message names each, and why."""

    def __init__(self, missing: Granted) -> None:
        super().__init__(", ".join(f"{layer} ({why})" for layer, why in sorted(missing.items())))


def attempt(enter: Callable[[], None]) -> str:
    """Return "" where `enter` succeeds, else what the system says."""
    try:
        enter()
    except OSError as error:
        return error.strerror or repr(error)
    return ""
