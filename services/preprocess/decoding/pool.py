"""The decoder processes: one job each at a time, a deadline for each job, a new process for one that died."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import Self

from services.common.errors import Fault
from services.preprocess.decoding.jobs import Decoded, Job, anonymous_file, decode_decoded, receive, send
from services.preprocess.media.problems import MediaProblem, invalid, too_large

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0


class _Decoder:
    """One process and the socket to it. Blocking; used from one thread at a time."""

    def __init__(self, memory_bytes: int) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = (
                sys.executable,
                "-m",
                "services.preprocess.decoding.worker",
                str(theirs.fileno()),
                str(memory_bytes),
            )
            # Nothing of the service's environment that could hold a secret, only what finds the modules.
            keep = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
            environment = {name: os.environ[name] for name in keep if name in os.environ} | {
                "OMP_NUM_THREADS": "1",
                "MALLOC_ARENA_MAX": "2",
            }
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                command, pass_fds=(theirs.fileno(),), env=environment, stdin=subprocess.DEVNULL
            )

    def wait_ready(self) -> None:
        self._channel.settimeout(START_TIMEOUT_S)
        if receive(self._channel)[0] != b"ready":
            raise Fault("a decoder process did not start")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, job: Job, timeout_s: float) -> Decoded:
        """Raises MediaProblem; OSError where the process died or took too long (it is then of no more use)."""
        fd = anonymous_file(job.files)
        try:
            self._channel.settimeout(timeout_s)
            send(self._channel, job.header(), fd)
        finally:
            os.close(fd)
        header, result = receive(self._channel)
        if not header:
            raise ConnectionResetError
        try:
            reply = json.loads(header)
            if result is None:
                raise MediaProblem(str(reply["code"]), str(reply["message"]))
            return decode_decoded(reply, result)
        finally:
            if result is not None:
                os.close(result)

    def kill(self) -> None:
        """Ends the process; a `run` under way fails. Idempotent."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._channel.close()


class DecodePool:
    """`size` decoder processes, started by `start` (or at need) and ended by the block's exit.

    async with DecodePool(2, memory_bytes=2 << 30, timeout_s=60) as pool:
        decoded = await pool.decode(job)
    """

    def __init__(self, size: int, *, memory_bytes: int, timeout_s: float) -> None:
        self._memory_bytes = memory_bytes
        self._timeout_s = timeout_s
        self._free: asyncio.Queue[_Decoder | None] = asyncio.Queue()
        self._size = size
        self._all: set[_Decoder] = set()
        for _ in range(size):
            self._free.put_nowait(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for decoder in tuple(self._all):
            self._drop(decoder)

    async def start(self) -> None:
        """Starts the processes that are not there, side by side. Raises Fault where one does not come up. To be called
        while no job is under way."""
        idle = [self._free.get_nowait() for _ in range(self._size)]
        started = await asyncio.gather(*(self._ready(decoder) for decoder in idle))
        for decoder in started:
            self._free.put_nowait(decoder)

    async def decode(self, job: Job) -> Decoded:
        """Waits for a free process and does the job there. A cancelled call ends its process.

        Raises MediaProblem: also where the decoder crashed, ran out of memory or out of time on it.
        """
        decoder = await self._free.get()
        usable: _Decoder | None = None
        try:
            decoder = await self._ready(decoder)
            decoded = await self._run(decoder, job)
        except MediaProblem:
            usable = decoder
            raise
        except TimeoutError:
            raise too_large(f"decoding takes longer than {self._timeout_s:g} s") from None
        except (OSError, ValueError, KeyError, TypeError):
            logger.warning("a decoder process died on a %s of %d bytes", job.kind, sum(map(len, job.files)))
            raise invalid("the file breaks its decoder") from None
        else:
            usable = decoder
            return decoded
        finally:
            if usable is None and decoder is not None:
                self._drop(decoder)
            self._free.put_nowait(usable)

    async def _run(self, decoder: _Decoder, job: Job) -> Decoded:
        work = asyncio.get_running_loop().run_in_executor(None, decoder.run, job, self._timeout_s)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            decoder.kill()  # the thread, which can't be cancelled, then meets the end of its socket
            await asyncio.wait((work,))
            work.exception()
            raise

    async def _ready(self, decoder: _Decoder | None) -> _Decoder:
        if decoder is not None and decoder.alive:
            return decoder
        if decoder is not None:
            self._drop(decoder)
        fresh = _Decoder(self._memory_bytes)
        self._all.add(fresh)
        try:
            await asyncio.get_running_loop().run_in_executor(None, fresh.wait_ready)
        except BaseException as error:
            self._drop(fresh)
            if isinstance(error, OSError):
                raise Fault("a decoder process did not start") from None
            raise
        return fresh

    def _drop(self, decoder: _Decoder) -> None:
        self._all.discard(decoder)
        decoder.close()
