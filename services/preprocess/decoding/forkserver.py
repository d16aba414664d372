"""The process that decoders are forked from: it has imported all that they need, so that a new one takes milliseconds.

Started by `processes` as `python -m services.preprocess.decoding.forkserver <fd> <memory bytes> <layers> <films>`. It
never reads a client's file. Its parent sends a socket to fork a decoder for, or the id of a decoder to reap.

Films need torch, whose memory makes a fork take four times as long. So there is a fork server for films ("films"), and
one for all else ("").
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from services.preprocess.decoding import decoder
from services.preprocess.decoding.isolation import linux
from services.preprocess.decoding.isolation.confinement import Confinement
from services.preprocess.decoding.isolation.layers import Layer
from services.preprocess.decoding.jobs import receive, send
from services.preprocess.decoding.warm_up import warm_up


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    confinement = Confinement(frozenset(map(Layer, filter(None, sys.argv[3].split(",")))), int(sys.argv[2]))
    linux.end_with_parent(signal.SIGKILL)
    films = sys.argv[4] == "films"
    if films:
        import torch

        torch.set_num_threads(1)
    silence_libraries()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the service ends this process
    warm_up(films=films)
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    if threads != 1:  # a fork copies the one thread that calls it, and every lock as it is
        raise SystemExit(f"the fork server runs {threads} threads; it must run one")
    confinement.enter_server()
    linux.end_with_parent(signal.SIGKILL)  # again: the change of user undid it
    gc.freeze()
    send(channel, b"ready")
    while True:
        request, fds = receive(channel)
        if not request:
            return
        if fds:
            fork(channel, fds[0], confinement)
        else:
            send(channel, json.dumps(reap(json.loads(request))).encode())


def fork(channel: socket.socket, fd: int, confinement: Confinement) -> None:
    """Fork a decoder that serves the socket `fd`. Send its process id and a descriptor of it (pidfd), or the errno of a
    failed fork."""
    parent = os.getpid()
    try:
        pid = os.fork()
        if pid == 0:
            become_decoder(fd, parent, confinement)
        handle = os.pidfd_open(pid)
    except OSError as error:
        send(channel, json.dumps({"errno": error.errno or 0}).encode())
        return
    finally:
        os.close(fd)
    send(channel, json.dumps({"pid": pid}).encode(), (handle,))
    os.close(handle)


def become_decoder(fd: int, parent: int, confinement: Confinement) -> NoReturn:
    """Keep nothing open but `fd` and null devices, and serve it."""
    try:
        sys.stderr = None
        linux.end_with_parent(signal.SIGKILL)
        os.closerange(3, fd)
        os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
        if os.getppid() == parent:
            decoder.run(socket.socket(fileno=fd), confinement)
    finally:
        os._exit(1)


def reap(request: dict[str, int]) -> dict[str, int]:
    """Wait for a decoder that has been killed or has ended. Return its exit code, −N where signal N ended it."""
    _, status = os.waitpid(request["pid"], 0)
    return {"exit_code": os.waitstatus_to_exitcode(status)}


def silence_libraries() -> None:
    """Drop what C libraries print of a client's file; Python's own standard error stays, and decoders close it."""
    own = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.stderr = os.fdopen(own, "w", buffering=1)


if __name__ == "__main__":
    main()
