"""The process that decoders are forked from: it has imported all that they need, so that a new one takes milliseconds.

Started by `processes` as `python -m services.preprocess.decoding.forkserver <fd> <memory bytes>`. It never reads a
client's file. Its parent sends a socket to fork a decoder for, or the id of a decoder to reap.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
from pathlib import Path

import torch

from services.preprocess.decoding import decoder
from services.preprocess.decoding.jobs import receive, send

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    channel, memory_bytes = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    torch.set_num_threads(1)
    silence_libraries()
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the service ends this process
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    if threads != 1:  # a fork copies the one thread that calls it, and every lock as it is
        raise SystemExit(f"the fork server runs {threads} threads; it must run one")
    gc.freeze()
    send(channel, b"ready", None)
    while True:
        request, fd = receive(channel)
        if not request:
            return
        reply = reap(json.loads(request)) if fd is None else fork(channel, fd, memory_bytes)
        send(channel, json.dumps(reply).encode(), None)


def fork(channel: socket.socket, fd: int, memory_bytes: int) -> dict[str, int]:
    """Fork a decoder that serves the socket `fd`. Return its process id, or the errno of a failed fork."""
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(fd)
        return {"errno": error.errno or 0}
    if pid == 0:
        channel.close()
        end_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        decoder.run(socket.socket(fileno=fd), memory_bytes)
    os.close(fd)
    return {"pid": pid}


def reap(request: dict[str, int]) -> dict[str, int]:
    """Wait for a decoder that has been killed or has ended. Return its exit code, −N where signal N ended it."""
    _, status = os.waitpid(request["pid"], 0)
    return {"exit_code": os.waitstatus_to_exitcode(status)}


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, and take away every way to new privileges."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def silence_libraries() -> None:
    """Drop what C libraries print of a client's file; Python's own standard error stays."""
    own = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    sys.stderr = os.fdopen(own, "w", buffering=1)


if __name__ == "__main__":
    main()
