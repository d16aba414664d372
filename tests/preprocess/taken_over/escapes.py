"""The ways out that a taken-over decoder tries. Each returns what it reached, and raises OSError or MemoryError where
it is refused. The code is an attacker's: it makes the system calls itself."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_X86 = os.uname().machine == "x86_64"
PROCESS_VM_READV = 310 if _X86 else 270
PTRACE = 101 if _X86 else 117
KEYCTL = 250 if _X86 else 219
IO_URING_SETUP = 425
SHMGET = 29 if _X86 else 194
UNSHARE = 272 if _X86 else 97
PTRACE_SEIZE = 0x4206
CLONE_NEWUSER = 0x10000000
FOUR_GIB = 4 << 30
# More than the harness lets a decoder start.
BOMB = 40
_children: list[int] = []


def _call(number: int, *arguments: Any) -> int:
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def read_environment(pid: int, **_: Any) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_memory(pid: int, address: int, **_: Any) -> str:
    content = ctypes.create_string_buffer(16)
    ours, theirs = _Vector(ctypes.addressof(content), 16), _Vector(address, 16)
    _call(PROCESS_VM_READV, pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    return content.value.decode()


def trace(pid: int, **_: Any) -> str:
    _call(PTRACE, PTRACE_SEIZE, pid, 0, 0)
    return "traced"


def kill(pid: int, **_: Any) -> str:
    os.kill(pid, signal.SIGUSR1)  # the victim ignores it
    return "signalled"


def kill_every_process_in_sight(pid: int, **_: Any) -> str:
    reached: list[int] = []
    for other in {pid, os.getppid(), *range(1, 200)} - {os.getpid()}:
        try:
            os.kill(other, 0)
        except OSError:
            continue
        reached.append(other)
    if not reached:
        raise PermissionError(1, "no process can be signalled")
    return str(reached)


def read_file(path: str, **_: Any) -> str:
    return Path(path).read_text()


def write_file(folder: str, **_: Any) -> str:
    return str(Path(folder, "written").write_text("taken over"))


def list_files(folder: str, **_: Any) -> str:
    return str(sorted(entry.name for entry in Path(folder).iterdir()))


def connect_tcp(tcp: list[Any], **_: Any) -> str:
    with socket.socket() as probe:
        probe.settimeout(5)
        probe.connect(tuple(tcp))
    return "connected"


def send_udp(udp: list[Any], **_: Any) -> str:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.sendto(b"secret", tuple(udp))
    return "sent"


def connect_unix(unix: str, **_: Any) -> str:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(unix)
    return "connected"


def connect_abstract(abstract: str, **_: Any) -> str:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect("\0" + abstract)
    return "connected"


def attach_shared_memory(shared_key: int, **_: Any) -> str:
    return str(_call(SHMGET, shared_key, 0, 0))


def run_program(**_: Any) -> str:
    return subprocess.run(["/bin/echo", "ran"], capture_output=True, check=True, text=True).stdout


def start_many_processes(**_: Any) -> str:
    ends, ours = os.pipe()
    for _i in range(BOMB):
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            os.read(ends, 1)  # until the attacker's end
            os._exit(0)
        _children.append(pid)
    return f"{len(_children)} processes"


def take_memory(**_: Any) -> str:
    with mmap.mmap(-1, FOUR_GIB):
        return "4 GiB"


def fill_memory_by_files(**_: Any) -> str:
    fd = os.memfd_create("x")
    os.ftruncate(fd, FOUR_GIB)
    os.close(fd)
    return "4 GiB"


def write_program_into_memory(**_: Any) -> str:
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        return "an executable page"


def use_keyrings(**_: Any) -> str:
    return str(_call(KEYCTL, 0, -3, 0))


def open_io_uring(**_: Any) -> str:
    return str(_call(IO_URING_SETUP, 1, ctypes.create_string_buffer(120)))


def gain_capabilities(**_: Any) -> str:
    _call(UNSHARE, CLONE_NEWUSER)
    return "all capabilities in a new user namespace"


def change_shared_files(**_: Any) -> str:
    """Truncate or enlarge what the service shares: the job's files and the results."""
    done: list[str] = []
    for fd in open_descriptors():
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
        except OSError:  # a socket
            continue
        for name, change in (
            ("truncated", lambda fd=fd: os.ftruncate(fd, 0)),
            ("enlarged", lambda fd=fd, size=size: os.ftruncate(fd, size + 1)),
        ):
            try:
                change()
            except OSError:
                continue
            if size:
                done.append(f"{fd} {name}")
    if not done:
        raise PermissionError(1, "sealed")
    return str(done)


def open_descriptors() -> list[int]:
    found: list[int] = []
    for fd in range(256):
        try:
            os.get_inheritable(fd)
        except OSError:
            continue
        found.append(fd)
    return found


ESCAPES: dict[str, Callable[..., str]] = {
    escape.__name__: escape
    for escape in (
        read_environment,
        read_memory,
        trace,
        kill,
        kill_every_process_in_sight,
        read_file,
        write_file,
        list_files,
        connect_tcp,
        send_udp,
        connect_unix,
        connect_abstract,
        attach_shared_memory,
        run_program,
        start_many_processes,
        take_memory,
        fill_memory_by_files,
        write_program_into_memory,
        use_keyrings,
        open_io_uring,
        change_shared_files,
        gain_capabilities,  # the last one: it changes what the process is
    )
}


def attempt(order: bytes) -> str:
    """Try the escape that `order` (JSON) names. Return JSON: what was reached, or why not."""
    named = json.loads(order)
    try:
        return json.dumps({"reached": ESCAPES[named.pop("escape")](**named)})
    except (OSError, MemoryError, subprocess.SubprocessError) as error:
        return json.dumps({"refused": repr(error)})
