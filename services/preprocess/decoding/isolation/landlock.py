"""Landlock: a process without privileges gives up files, TCP, and reaching processes outside. Since Linux 5.13;
https://docs.kernel.org/userspace-api/landlock.html has the rights of each version ("ABI")."""

from __future__ import annotations

import ctypes
import os

from services.preprocess.decoding.isolation import linux

# The same on every architecture.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_GET_VERSION = 1
# Number of rights on files by ABI: 2 added linking and renaming, 3 truncation, 5 ioctl on devices.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_BIND_AND_CONNECT = 0b11  # since ABI 4
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11  # since ABI 6


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


def version() -> int:
    """Return the kernel's ABI. Raise OSError where it has no Landlock, or it is not allowed."""
    return linux.syscall(_CREATE_RULESET, None, 0, _GET_VERSION)


def enter() -> None:
    """Give up everything that this kernel's Landlock knows; what is open stays usable. Raise OSError."""
    abi = version()
    ruleset = _Ruleset(
        files=(1 << _FILE_RIGHTS[min(abi, max(_FILE_RIGHTS))]) - 1,
        network=_TCP_BIND_AND_CONNECT if abi >= 4 else 0,
        scoped=_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if abi >= 6 else 0,
    )
    fd = linux.syscall(_CREATE_RULESET, ruleset, ctypes.sizeof(ruleset), 0)
    try:
        linux.syscall(_RESTRICT_SELF, fd, 0)  # no rule was added, so nothing is allowed
    finally:
        os.close(fd)
