"""The decoder processes: one job each at a time, a deadline for each job, and a new process for each that dies."""

from __future__ import annotations

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from services.common.errors import Fault
from services.preprocess.decoding.jobs import Decoded, Job
from services.preprocess.decoding.processes import Decoder, DecoderDied, Exhausted, ForkServer
from services.preprocess.exhaustion import unavailable
from services.preprocess.media.problems import MediaProblem, breaks_decoder, too_large

logger = logging.getLogger(__name__)


class DecodePool:
    """`size` decoder processes. They are forked from one that is kept ready, so a decoder that dies on a file costs
    the request that sent it, and the next request milliseconds.

    async with DecodePool(2, memory_bytes=2 << 30, timeout_s=60) as pool:
        decoded = await pool.decode(job)
    """

    def __init__(self, size: int, *, memory_bytes: int, timeout_s: float) -> None:
        self._memory_bytes = memory_bytes
        self._timeout_s = timeout_s
        self._size = size
        # A place holds an idle decoder, or None where one is to be forked.
        self._places: asyncio.Queue[Decoder | None] = asyncio.Queue()
        self._all: set[Decoder] = set()
        self._server: ForkServer | None = None
        self._starting = asyncio.Lock()
        self._closed = False
        # One for each job, and one to fork and reap.
        self._threads = ThreadPoolExecutor(size + 1, thread_name_prefix="decoder")
        for _ in range(size):
            self._places.put_nowait(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for decoder in tuple(self._all):
            decoder.close()
        self._all.clear()
        self._threads.shutdown()
        if self._server is not None:
            self._server.close()

    @property
    def process_ids(self) -> list[int]:
        """Of the decoders that have been forked and not been dropped."""
        return [decoder.pid for decoder in self._all]

    @property
    def fork_server_id(self) -> int | None:
        return self._server.pid if self._server is not None else None

    async def start(self) -> None:
        """Fork the decoders that are not there. Raise Fault or OSError where one does not come up. To be called while
        no job is under way."""
        idle = [self._places.get_nowait() for _ in range(self._size)]
        for place in idle:
            self._places.put_nowait(await self._ready(place))

    async def decode(self, job: Job) -> Decoded:
        """Wait for a free decoder and do the job there. A cancelled call ends its decoder.

        Raise MediaProblem where the files are at fault: they are broken, they crash the decoder, or they take more
        memory or time than is allowed. Raise Unavailable where this machine is: it has run out of something, or
        somebody else killed the decoder.
        """
        place = await self._places.get()
        usable: Decoder | None = None
        decoder: Decoder | None = place
        try:
            try:
                decoder = await self._ready(place)
            except (Fault, OSError, MemoryError) as error:
                logger.warning("no decoder for a %s of %d bytes: %r", job.kind, job.size_bytes, error)
                raise unavailable() from None
            decoded = await self._run(decoder, job)
        except MediaProblem:
            usable = decoder
            raise
        except TimeoutError:
            raise too_large(
                f"Decoding the file takes longer than {self._timeout_s:g} s. Send a shorter or smaller file."
            ) from None
        except DecoderDied as death:
            raise self._blame(death.exit_code, job) from None
        except (ValueError, KeyError, TypeError):
            logger.warning("a decoder's answer to a %s of %d bytes makes no sense", job.kind, job.size_bytes)
            raise breaks_decoder() from None
        except (Exhausted, OSError, MemoryError) as error:
            logger.warning("cannot decode a %s of %d bytes: %r", job.kind, job.size_bytes, error)
            raise unavailable() from None
        else:
            usable = decoder
            return decoded
        finally:
            if usable is None and decoder is not None:
                self._drop(decoder)
            self._places.put_nowait(usable)

    def _blame(self, exit_code: int | None, job: Job) -> Exception:
        """The error for the job that a decoder died on. A crash and the end of its processor time are the file's doing;
        SIGKILL and SIGTERM come from outside: a person, or the kernel when the machine has no memory left."""
        logger.warning("a decoder died on a %s of %d bytes: %s", job.kind, job.size_bytes, _death(exit_code))
        if exit_code in (None, -signal.SIGKILL, -signal.SIGTERM):
            return unavailable()
        if exit_code == -signal.SIGPROF:
            return too_large(
                f"Decoding the file takes more than {job.cpu_s:g} s of processor time. Send a shorter or smaller file."
            )
        return breaks_decoder()

    async def _run(self, decoder: Decoder, job: Job) -> Decoded:
        work = asyncio.get_running_loop().run_in_executor(self._threads, decoder.run, job, self._timeout_s)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            decoder.kill()  # the thread, which can't be cancelled, then meets the end of its socket
            await asyncio.wait((work,))
            work.exception()
            raise

    async def _ready(self, decoder: Decoder | None) -> Decoder:
        """Return `decoder` where it lives, else a new one."""
        if decoder is not None:
            if decoder.alive:
                return decoder
            logger.warning("an idle decoder is gone")
            self._drop(decoder)
        server = await self._fork_server()
        forking = asyncio.get_running_loop().run_in_executor(self._threads, server.fork)
        try:
            fresh = await asyncio.shield(forking)
        except asyncio.CancelledError:
            forking.add_done_callback(lambda done: None if done.exception() else done.result().close())
            raise
        self._all.add(fresh)
        return fresh

    async def _fork_server(self) -> ForkServer:
        async with self._starting:
            if self._server is not None:
                if self._server.alive:
                    return self._server
                logger.warning("the decoders' fork server is gone; another one starts")
                self._server.close()
                self._server = None
            server = ForkServer(self._memory_bytes)
            try:
                await asyncio.get_running_loop().run_in_executor(self._threads, server.wait_ready)
            except BaseException:
                server.close()
                raise
            self._server = server
            return server

    def _drop(self, decoder: Decoder) -> None:
        self._all.discard(decoder)
        if self._closed:
            decoder.close()
        else:
            self._threads.submit(decoder.close)


def _death(exit_code: int | None) -> str:
    if exit_code is None:
        return "with the fork server"
    return signal.strsignal(-exit_code) or f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
