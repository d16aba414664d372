"""What is outside of a decoder for an attacker to want: a process with a secret, files, servers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from services.preprocess.decoding.isolation import linux
from tests.preprocess.taken_over.escapes import SHMGET

ROOT, POD = 0, 10_001
SECRET = "s3cret"
SHMCTL, IPC_CREAT, IPC_RMID = 31 if os.uname().machine == "x86_64" else 195, 0o1000, 0


@contextmanager
def outside_world(uid: int) -> Generator[dict[str, Any]]:
    """All of it belongs to the user of the decoder. Yield the arguments of the escapes."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp())
        stack.callback(shutil.rmtree, folder)
        (folder / "secret").write_text(SECRET)
        (folder / "secret").chmod(0o600)
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(folder / "socket"))
        for path in (folder, *folder.iterdir()):
            os.chown(path, uid, uid)
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0antiphon-test-{os.getpid()}-{uid}")
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        for server in (unix, abstract):
            server.listen()
        victim = stack.enter_context(running_victim(uid))
        key = 0x5EC0 + uid
        segment = linux.syscall(SHMGET, key, 4096, IPC_CREAT | 0o666)
        stack.callback(linux.syscall, SHMCTL, segment, IPC_RMID, None)
        yield {
            **victim,
            "path": str(folder / "secret"),
            "folder": str(folder),
            "tcp": tcp.getsockname(),
            "udp": udp.getsockname(),
            "unix": str(folder / "socket"),
            "abstract": f"antiphon-test-{os.getpid()}-{uid}",
            "shared_key": key,
        }


_VICTIM = """
import ctypes, os, signal, sys
from services.preprocess.decoding.isolation import linux
uid = int(sys.argv[1])
os.setgroups([]), os.setresgid(uid, uid, uid), os.setresuid(uid, uid, uid)
linux.drop_capabilities()
linux.prctl(linux.PR_SET_DUMPABLE, 1)
if sys.argv[2] == "hidden": linux.hide_memory()
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
secret = ctypes.create_string_buffer(b"s3cret", 16)
print(ctypes.addressof(secret), flush=True)
sys.stdin.read()
"""


@contextmanager
def running_victim(uid: int, how: str = "open") -> Generator[dict[str, int]]:
    """A process like the service: of the decoder's user, without capabilities, a secret in its environment and memory.
    It hides its memory as the service does where it is "hidden"."""
    with subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(uid), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "SECRET": SECRET},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield {"pid": process.pid, "address": int(process.stdout.readline())}
        process.stdin.close()
