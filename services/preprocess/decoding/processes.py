"""The service's side of the fork server and of each decoder. Everything here blocks: it is called on threads."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from services.common.errors import Fault
from services.preprocess.decoding.jobs import Decoded, Job, anonymous_file, decode_decoded, receive, send
from services.preprocess.media.problems import MediaProblem

START_TIMEOUT_S = 60.0
# A fork or a reap takes milliseconds; on a machine that has no time left, longer.
ANSWER_TIMEOUT_S = 30.0
# Nothing of the service's environment that could hold a secret, only what finds the modules.
_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")


class DecoderDied(Exception):
    """A decoder ended while it had a job. `exit_code` is −N where signal N ended it, None where nobody could tell."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Exhausted(Exception):
    """A decoder could not answer since the machine ran out of something, not its job's memory."""


class ForkServer:
    """The process that decoders are forked from. Its thread of the service must outlive it: the kernel ends it with
    the thread that made it."""

    def __init__(self, memory_bytes: int) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                module = "services.preprocess.decoding.forkserver"
                command = (sys.executable, "-m", module, str(theirs.fileno()), str(memory_bytes))
                environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
                environment |= {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
                self._process = subprocess.Popen(  # noqa: S603  # our own module
                    command, pass_fds=(theirs.fileno(),), env=environment, stdin=subprocess.DEVNULL
                )
        except BaseException:
            self._channel.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Raise Fault where it does not come up."""
        self._channel.settimeout(START_TIMEOUT_S)
        try:
            ready = receive(self._channel)[0] == b"ready"
        except TimeoutError:
            ready = False
        if not ready:
            raise Fault("the decoders' fork server did not start")

    def fork(self) -> Decoder:
        """Raise OSError where there is no room for one more process or file handle, or the fork server is gone."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                reply = self._ask({}, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        if "errno" in reply:
            ours.close()
            raise OSError(reply["errno"], os.strerror(reply["errno"]))
        return Decoder(self, reply["pid"], ours)

    def reap(self, pid: int) -> int | None:
        """Return the exit code of a decoder that has ended or is killed; None where the fork server is gone with it."""
        try:
            return self._ask({"pid": pid}, None)["exit_code"]
        except OSError:
            return None

    def _ask(self, request: dict[str, int], fd: int | None) -> dict[str, int]:
        with self._lock:
            self._channel.settimeout(ANSWER_TIMEOUT_S)
            try:
                send(self._channel, json.dumps(request).encode(), fd)
                reply, _ = receive(self._channel)
            except TimeoutError:
                self._process.kill()  # a late reply would be taken for the next one
                raise
        if not reply:
            raise ConnectionResetError
        return json.loads(reply)

    def close(self) -> None:
        """End the process, and its decoders with it."""
        self._process.kill()
        self._process.wait()
        self._channel.close()


class Decoder:
    """One forked process and the socket to it. One thread at a time gives it jobs; any thread may kill it."""

    def __init__(self, server: ForkServer, pid: int, channel: socket.socket) -> None:
        self._server = server
        self._channel = channel
        self._ending = threading.Lock()
        self._ended = False
        self._exit_code: int | None = None
        self.pid = pid

    @property
    def alive(self) -> bool:
        """Whether its end of the socket is open. An idle decoder never writes, so what can be read is the end."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        return not self._ended and not poll.poll(0)

    def run(self, job: Job, timeout_s: float) -> Decoded:
        """Do `job`. Raise MediaProblem where its files are at fault.

        After any other error the decoder is of no more use: DecoderDied, TimeoutError, Exhausted, an OSError of this
        process, and ValueError, KeyError or TypeError for an answer that makes no sense.
        """
        fd = anonymous_file(job.files)
        try:
            self._channel.settimeout(timeout_s)
            header, result = self._exchange(job.header(), fd)
        finally:
            os.close(fd)
        try:
            reply: dict[str, Any] = json.loads(header)
            if result is not None:
                return decode_decoded(reply, result)
        finally:
            if result is not None:
                os.close(result)
        if "exhausted" in reply:
            raise Exhausted
        raise MediaProblem(str(reply["code"]), str(reply["message"]))

    def _exchange(self, header: bytes, fd: int) -> tuple[bytes, int | None]:
        try:
            send(self._channel, header, fd)
            reply, result = receive(self._channel)
        except ConnectionError:
            raise DecoderDied(self.end()) from None
        if not reply:
            raise DecoderDied(self.end())
        return reply, result

    def kill(self) -> None:
        """A `run` under way then fails. Idempotent."""
        with self._ending:
            if not self._ended:
                self._kill()

    def end(self) -> int | None:
        """Kill the process where it lives, and return its exit code. Idempotent."""
        with self._ending:
            if not self._ended:
                self._kill()
                self._exit_code = self._server.reap(self.pid)
                self._ended = True
            return self._exit_code

    def close(self) -> None:
        self.end()
        self._channel.close()

    def _kill(self) -> None:
        # Until it is reaped, nobody else has its id. The kernel kills it with the fork server.
        if self._server.alive:
            os.kill(self.pid, signal.SIGKILL)
