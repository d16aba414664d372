"""Seccomp: the system calls that a decoder may make. Every other one fails with EPERM.

A decoder computes, allocates, starts threads, and reads and writes what is open already. `filter_program` writes the
list as a program for the kernel's BPF (https://docs.kernel.org/userspace-api/seccomp_filter.html).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from services.preprocess.decoding.isolation import linux
from services.preprocess.decoding.isolation.syscalls import ARCHITECTURES

_MODE_FILTER = 2
_PROT_EXEC = 4
_PR_SET_NAME = 15

_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _FAIL_WITH = 0x7FFF0000, 0x80000000, 0x00050000
# Offsets in struct seccomp_data. Both architectures are little-endian: an argument's low word comes first.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_REFUSE = -1  # a jump to the refusal of the call
Instruction = tuple[int, int, int, int]
"""Code, instructions to skip where true, where false, and a value."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A condition on the low 32 bits of argument `index`: one of `equal`; the one bit `set`; no bit of `clear`."""

    index: int
    equal: tuple[int, ...] = ()
    set: int = 0
    clear: int = 0


Rules = Mapping[str, tuple[Argument, ...]]

_FREE = """
    read write readv writev pread64 pwrite64 preadv preadv2 pwritev lseek close fstat dup poll ppoll sendmsg recvmsg
    munmap mremap madvise brk futex set_robust_list rseq sched_yield sched_getaffinity nanosleep clock_nanosleep
    clock_gettime clock_getres gettimeofday time getcpu getpid gettid getppid getuid geteuid getgid getegid getrandom
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack setitimer restart_syscall sysinfo uname getrusage times
    exit exit_group
"""


def decoder_rules(pid: int) -> Rules:
    """The calls of the decoder with this process id, and the conditions on their arguments."""
    commands = (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GET_SEALS)
    return {
        **dict.fromkeys(_FREE.split(), ()),
        # No memory becomes a program.
        "mmap": (Argument(2, clear=_PROT_EXEC),),
        "mprotect": (Argument(2, clear=_PROT_EXEC),),
        # Threads only. Namespaces cannot come with a thread.
        "clone": (Argument(0, set=linux.CLONE_THREAD, clear=linux.CLONE_NEWUSER | linux.CLONE_NEWPID),),
        # Signals to itself: abort() sends one.
        "tgkill": (Argument(0, equal=(pid,)),),
        "kill": (Argument(0, equal=(pid,)),),
        "prctl": (Argument(0, equal=(_PR_SET_NAME,)),),
        # Not F_SETOWN, which sends signals.
        "fcntl": (Argument(1, equal=commands),),
        # Only its own limits, which without privileges only fall.
        "prlimit64": (Argument(0, equal=(0,)),),
        # Only its own priority.
        "setpriority": (Argument(0, equal=(os.PRIO_PROCESS,)), Argument(1, equal=(0,))),
    }


def enter(rules: Rules) -> None:
    """Allow this process, for good, only what `rules` name. Raise OSError where the kernel does not filter."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"there is no filter for {machine}")
    program = filter_program(rules, machine)
    code = ctypes.create_string_buffer(program, len(program))
    linux.prctl(linux.PR_SET_SECCOMP, _MODE_FILTER, _Program(len(program) // 8, ctypes.addressof(code)))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def filter_program(rules: Rules, machine: str) -> bytes:
    """The instructions: check the architecture; for each call, its conditions; else EPERM."""
    architecture = ARCHITECTURES[machine]
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, architecture.audit_id),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        # The C library takes EPERM for an answer, and only ENOSYS for a reason to use clone, whose flags can be read.
        (_JUMP_IF_EQUAL, 0, 1, architecture.numbers["clone3"]),
        (_RETURN, 0, 0, _FAIL_WITH | errno.ENOSYS),
    ]
    for name, conditions in rules.items():
        number = architecture.numbers.get(name)
        if number is None:  # an older call that this architecture never had
            continue
        tests = [test for condition in conditions for test in _tests(condition)]
        refusal = (_RETURN, 0, 0, _FAIL_WITH | errno.EPERM)
        block = [*_resolved(tests), (_RETURN, 0, 0, _ALLOW), refusal]
        instructions += [(_JUMP_IF_EQUAL, 0, len(block), number), *block]
    instructions.append((_RETURN, 0, 0, _FAIL_WITH | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def _tests(condition: Argument) -> list[Instruction]:
    """The instructions of one condition: they go on to the next one where it holds, and jump to _REFUSE where not."""
    load = (_LOAD, 0, 0, _ARGUMENTS + 8 * condition.index)
    tests: list[Instruction] = []
    if condition.equal:
        last = len(condition.equal) - 1
        tests.append(load)
        for i, value in enumerate(condition.equal):
            tests.append((_JUMP_IF_EQUAL, last - i, _REFUSE if i == last else 0, value))
    if condition.set:
        tests += [load, (_JUMP_IF_ANY_BIT, 0, _REFUSE, condition.set)]
    if condition.clear:
        tests += [load, (_JUMP_IF_ANY_BIT, _REFUSE, 0, condition.clear)]
    return tests


def _resolved(tests: list[Instruction]) -> list[Instruction]:
    """Replace _REFUSE by the distance to the second instruction after `tests`."""

    def distance(jump: int, i: int) -> int:
        return len(tests) - i if jump == _REFUSE else jump

    return [
        (code, distance(if_true, i), distance(if_false, i), value)
        for i, (code, if_true, if_false, value) in enumerate(tests)
    ]
