"""System calls that Python's library does not offer, by ctypes. Each raises OSError as Python's own do."""

from __future__ import annotations

import ctypes
import os

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CLONE_THREAD = 0x00010000
CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

_CAPABILITY_VERSION_3 = 0x20080522
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(number: int, *arguments: int | bytes | ctypes.Structure | None) -> int:
    """Make a system call. Bytes and structures are passed by address, integers as the machine's long."""
    return _checked(_libc.syscall(ctypes.c_long(number), *map(_as_argument, arguments)))


def _as_argument(value: int | bytes | ctypes.Structure | None) -> object:
    if isinstance(value, int):
        return ctypes.c_long(value)
    return ctypes.byref(value) if isinstance(value, ctypes.Structure) else value


def prctl(option: int, *arguments: int | ctypes.Structure) -> None:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    _checked(_libc.prctl(ctypes.c_int(option), *(_as_argument(value) for value in padded)))


def unshare(flags: int) -> None:
    _checked(_libc.unshare(ctypes.c_int(flags)))


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
    _checked(_libc.mount(source, target, kind, ctypes.c_ulong(flags), options))


def unmount(target: bytes, flags: int) -> None:
    _checked(_libc.umount2(target, ctypes.c_int(flags)))


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    syscall(_SYS_PIVOT_ROOT[os.uname().machine], new_root, put_old)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("sets", ctypes.c_uint32 * 6),)  # effective, permitted, inheritable; low words, then high words


def drop_capabilities() -> None:
    """Give up every capability, for this process and for what it forks."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    syscall(_SYS_CAPSET[os.uname().machine], _CapabilityHeader(_CAPABILITY_VERSION_3, 0), _CapabilityData())


def refuse_new_privileges() -> None:
    """Let no program that this process runs gain privileges (setuid, file capabilities). Seccomp and Landlock ask for
    it."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """Let no other process of this user read this one's memory, environment or open files, nor trace it. A process with
    CAP_SYS_PTRACE still can."""
    prctl(PR_SET_DUMPABLE, 0)


def end_with_parent(signal_number: int) -> None:
    """Let the kernel send this process a signal when the thread that forked it ends. A change of user undoes it."""
    prctl(PR_SET_PDEATHSIG, signal_number)
