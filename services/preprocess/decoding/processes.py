"""The service's side of the fork server and of each decoder. Everything here blocks: it is called on threads."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.errors import Fault
from services.preprocess.decoding.isolation.layers import Granted, Layer
from services.preprocess.decoding.jobs import (
    Array,
    Decoded,
    Job,
    job_file,
    read_decoded,
    receive,
    result_file,
    send,
)
from services.preprocess.media.problems import MediaProblem, problem_from
from services.preprocess.media.work import Work

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
# A fork or a reap takes milliseconds; on a machine that has no time left, longer. After this the fork server hangs.
ANSWER_TIMEOUT_S = 10.0
# Between two looks at a decoder that works.
_LOOK_EVERY_S = 0.1
# Of each amount in a decoder's answer: nothing that is computed from it overflows.
_MOST_WORK = 1 << 48
_FORK_SERVER = "services.preprocess.decoding.forkserver"
# Nothing of the service's environment that could hold a secret, only what finds the modules.
_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")


# What the reading of an answer may raise: a file may have written it.
NONSENSE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class DecoderDied(Exception):
    """A decoder ended while it had a job. `exit_code` is −N where signal N ended it, None where nobody could tell."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class DecoderHangs(Exception):
    """A decoder with a job takes no processor time: it waits for something that does not come."""


class Exhausted(Exception):
    """A decoder could not answer since the machine ran out of something, not its job's memory."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a job may take, and how long a decoder may go without processor time meanwhile, seconds."""

    timeout_s: float
    hang_after_s: float


class ForkServer:
    """The process that decoders are forked from, those that can decode `films` or the others. Its thread of the service
    must outlive it: the kernel ends it with the thread that made it."""

    def __init__(self, memory_bytes: int, layers: Iterable[Layer], *, films: bool) -> None:
        self.memory_bytes = memory_bytes
        self.films = films
        self._lock = threading.Lock()
        self._answers = True
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                arguments = (
                    *(str(theirs.fileno()), str(memory_bytes)),
                    *(",".join(sorted(layers)), "films" if films else ""),
                )
                command = (sys.executable, "-m", _FORK_SERVER, *arguments)
                environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
                environment |= {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
                # A large array goes back to the system as soon as it is freed.
                environment |= {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(4 << 20)}
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
        """Whether it answers. It may be two processes, of which one can end while the other is stopped."""
        return self._answers and self._process.poll() is None

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
        """Raise OSError where there is no room for one more process or file handle, or the fork server is gone; Fault
        where the decoder does not come up."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                reply, handle = self._ask({}, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        if handle is None:
            ours.close()
            raise OSError(reply["errno"], os.strerror(reply["errno"]))
        decoder = Decoder(self, reply["pid"], handle, ours)
        try:
            decoder.wait_confined()
        except BaseException:
            decoder.close()
            raise
        return decoder

    def reap(self, pid: int) -> int | None:
        """Return the exit code of a decoder that has ended or is killed; None where the fork server is gone with it."""
        try:
            return self._ask({"pid": pid}, None)[0]["exit_code"]
        except OSError:
            return None

    def _ask(self, request: dict[str, int], fd: int | None) -> tuple[dict[str, int], int | None]:
        """Return the reply, and the descriptor with it."""
        with self._lock:
            self._channel.settimeout(ANSWER_TIMEOUT_S)
            try:
                send(self._channel, json.dumps(request).encode(), () if fd is None else (fd,))
                reply, fds = receive(self._channel)
                if not reply:
                    raise ConnectionResetError
            except (TimeoutError, ConnectionError):
                self._answers = False
                self._process.kill()  # a late reply would be taken for the next one
                raise
        return json.loads(reply), fds[0] if fds else None

    def close(self) -> None:
        """End the process, and its decoders with it."""
        self._process.kill()
        self._process.wait()
        self._channel.close()


class Decoder:
    """One forked process and the socket to it. One thread at a time gives it jobs; any thread may kill it.

    `layers` says how it is isolated. `number` is the process's id within the fork server's namespace.
    """

    def __init__(self, server: ForkServer, number: int, handle: int, channel: socket.socket) -> None:
        self._server = server
        self._number = number
        self._handle = handle
        self._channel = channel
        self._ending = threading.Lock()
        self._ended = False
        self._exit_code: int | None = None
        self._result = -1
        self.layers: Granted = {}
        self.decodes_films = server.films
        self.owner = ""
        """Whom its files belong to, once it has had a job."""

    @property
    def pid(self) -> int:
        """Its process id here; −1 once it is reaped."""
        fields = Path(f"/proc/self/fdinfo/{self._handle}").read_text()
        return int(fields.partition("Pid:")[2].split()[0])

    @property
    def parent(self) -> int:
        """The process id of its fork server."""
        return self._server.pid

    @property
    def cpu_ticks(self) -> int:
        """Processor time that it has taken, in clock ticks (proc(5)); 0 once it has ended."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0
        return int(fields[11]) + int(fields[12])

    @property
    def alive(self) -> bool:
        """Whether its end of the socket is open. An idle decoder never writes, so what can be read is the end."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        return not self._ended and not poll.poll(0)

    def wait_confined(self) -> None:
        """Wait until it has taken its place behind the layers. Raise Fault or OSError where it does not."""
        self._channel.settimeout(ANSWER_TIMEOUT_S)
        hello, _ = receive(self._channel)
        if not hello:
            raise Fault(f"a decoder did not come up: {self.end()}")
        self.layers = {Layer(name): why for name, why in json.loads(hello)["layers"].items()}

    def look(self, job: Job, patience: Patience) -> Work:
        """Read the headers of the job's files. `decode` must follow. Raise as `decode`; after a MediaProblem the
        decoder takes the next job."""
        self.owner = job.owner
        files = job_file(job.files)
        try:
            self._result = result_file(self._server.memory_bytes)
            reply = self._exchange(job, job.header(), (files, self._result), patience)
            amounts = {name: int(amount) for name, amount in reply["work"].items()}
            if not all(0 <= amount <= _MOST_WORK for amount in amounts.values()):
                raise ValueError("the decoder's answer names no amount of work")
            return Work(**amounts)
        except MediaProblem:
            self._close_result()
            raise
        finally:
            os.close(files)

    def decode(self, job: Job, work: Work, cpu_s: float, niceness: int, patience: Patience) -> Decoded:
        """Decode the job that `look` has read, within the memory that its `work` says.

        Raise MediaProblem where its files are at fault.

        After any other error the decoder is of no more use: DecoderDied, DecoderHangs, TimeoutError, Exhausted, an
        OSError of this process, and one of NONSENSE for an answer that makes no sense.
        """
        word = _go_on(work, cpu_s, niceness)
        try:
            return read_decoded(self._exchange(job, word, (), patience), job.kind, self._result, work.result_bytes)
        finally:
            self._close_result()

    def cut(self, job: Job, work: Work, cpu_s: float, niceness: int, patience: Patience) -> Generator[Array]:
        """Yield the pieces of the recording that `look` has read: float32 [samples] at 16 kHz. Each step raises as
        `decode`, and may take as long. A step may be made on any thread."""
        word = _go_on(work, cpu_s, niceness)
        try:
            while (reply := self._exchange(job, word, (), patience))["arrays"]:
                yield read_decoded(reply, job.kind, self._result, work.result_bytes).array
                word = b"next"
        finally:
            self._close_result()

    def _close_result(self) -> None:
        result, self._result = self._result, -1
        if result >= 0:
            os.close(result)

    def _exchange(self, job: Job, message: bytes, fds: tuple[int, ...], patience: Patience) -> dict[str, Any]:
        """Return the decoder's reply. Raise MediaProblem or Exhausted where it says so."""
        try:
            self._channel.settimeout(patience.timeout_s)
            send(self._channel, message, fds)
            self._wait_for_answer(patience)
            answer, unasked = receive(self._channel)
        except ConnectionError:
            raise DecoderDied(self.end()) from None
        for fd in unasked:
            os.close(fd)
        if not answer:
            raise DecoderDied(self.end())
        reply: dict[str, Any] = json.loads(answer)
        if "trouble" in reply:
            logger.warning("a decoder met trouble with a %s: %.300r", job.kind, reply["trouble"])
        if "exhausted" in reply:
            raise Exhausted
        if "code" in reply:
            raise problem_from(str(reply["code"]), str(reply["message"]))
        return reply

    def _wait_for_answer(self, patience: Patience) -> None:
        """Wait until there is an answer or the process ends. Raise TimeoutError or DecoderHangs."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        used, waited_s, idle_s = self.cpu_ticks, 0.0, 0.0
        while not poll.poll(_LOOK_EVERY_S * 1000):
            waited_s += _LOOK_EVERY_S
            before, used = used, self.cpu_ticks
            idle_s = idle_s + _LOOK_EVERY_S if used == before else 0.0
            if waited_s >= patience.timeout_s:
                raise TimeoutError
            if idle_s >= patience.hang_after_s:
                raise DecoderHangs

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
                self._exit_code = self._server.reap(self._number)
                self._ended = True
            return self._exit_code

    def close(self) -> None:
        """End the process and give back its file handles. Idempotent."""
        self.end()
        self._channel.close()
        self._close_result()
        with self._ending:
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # it ended by itself
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)


def _go_on(work: Work, cpu_s: float, niceness: int) -> bytes:
    most = {"memory_bytes": work.decoder_bytes, "result_bytes": work.result_bytes}
    return json.dumps({"cpu_s": cpu_s, "niceness": niceness, **most}).encode()
