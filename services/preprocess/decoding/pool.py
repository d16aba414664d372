"""The decoder processes: one job each at a time, a price and a deadline for each job, and a new process for each
request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from services.common.errors import Fault
from services.common.memory_budget import MemoryBudget
from services.preprocess.decoding.deaths import blame
from services.preprocess.decoding.isolation.layers import ALL, Granted, IsolationMissing, Layer
from services.preprocess.decoding.jobs import Array, Decoded, Job
from services.preprocess.decoding.price import LOOK_CPU_S, SMALL_S, effort, price_s
from services.preprocess.decoding.processes import (
    NONSENSE,
    Decoder,
    DecoderDied,
    DecoderHangs,
    Exhausted,
    ForkServer,
    Patience,
)
from services.preprocess.decoding.schedule import Lane, Place, Schedule, make_places
from services.preprocess.exhaustion import unavailable
from services.preprocess.media.problems import MediaProblem, breaks_decoder, too_large
from services.preprocess.media.work import Work
from services.preprocess.memory import LONG_SOUND_BYTES, StageBudgets, divide

logger = logging.getLogger(__name__)

T = TypeVar("T")


def _nothing_more(work: Work) -> int:
    return 0


def _not_told(price_s: float) -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Look:
    """A decoder that has read the headers of its job's files, and how much work they are."""

    decoder: Decoder
    work: Work


class Piece(NamedTuple):
    """`samples`: float32 [samples] at 16 kHz. `recording_s`: how long the whole recording is by its headers."""

    samples: Array
    recording_s: int


class _Started(NamedTuple):
    """A job whose headers are read, at its place. Its memory comes from `budget`."""

    place: Place
    look: _Look
    budget: MemoryBudget


class DecodePool:
    """`size` decoder processes. They are forked from one that is kept ready, so a decoder that dies on a file costs
    the request that sent it, and the next request milliseconds. One for films is forked when a film comes, all others
    before they are needed.

    It isolates them by those of `layers` that the kernel grants, and runs none without those of `required`. `schedule`
    says whose file is next. `budgets` bounds what all jobs take together, `memory_bytes` what one decoder does.

    async with DecodePool(2, memory_bytes=2 << 30, timeout_s=60) as pool:
        decoded = await pool.decode(job)
    """

    def __init__(
        self,
        size: int,
        *,
        memory_bytes: int,
        timeout_s: float,
        budgets: StageBudgets | None = None,
        hang_after_s: float = 10.0,
        layers: Iterable[Layer] = ALL,
        required: Iterable[Layer] = (),
    ) -> None:
        self._memory_bytes = memory_bytes
        self._budgets = budgets or divide(8 * size * memory_bytes)
        self._layers = frozenset(layers)
        self._granted: Granted = {}
        self._required = frozenset(required)
        self._patience = Patience(timeout_s, hang_after_s)
        self._places = make_places(size)
        self._schedule = Schedule(self._places)
        self._all: set[Decoder] = set()
        self._renewing: set[asyncio.Task[None]] = set()
        # Of films, and of all else.
        self._servers: dict[bool, ForkServer] = {}
        self._starting = {films: asyncio.Lock() for films in (True, False)}
        self._closed = False
        # One for each job, and one to fork and reap.
        self._threads = ThreadPoolExecutor(size + 1, thread_name_prefix="decoder")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        await asyncio.gather(*self._renewing, return_exceptions=True)
        for decoder in tuple(self._all):
            decoder.close()
        self._all.clear()
        self._threads.shutdown()
        for server in self._servers.values():
            server.close()

    @property
    def process_ids(self) -> list[int]:
        """Of the decoders that have been forked and not been dropped."""
        return [decoder.pid for decoder in self._all]

    @property
    def parents(self) -> dict[int, int]:
        """The process id of the fork server of each of these decoders."""
        return {decoder.pid: decoder.parent for decoder in self._all}

    @property
    def fork_server_id(self) -> int | None:
        """Of the one that all decoders but those of films come from."""
        return self._servers[False].pid if False in self._servers else None

    @property
    def layers(self) -> Granted:
        """The layers of isolation that the newest decoder has, and why it lacks the others; empty before `start`."""
        return self._granted

    async def start(self) -> None:
        """Fork the decoders that are not there, and start what those of films are forked from. Raise Fault or OSError
        where one does not come up, IsolationMissing where a required layer is not granted. To be called while no job is
        under way."""
        await asyncio.gather(*self._renewing)
        starting = asyncio.create_task(self._fork_server(films=True))
        try:
            for place in self._places:
                place.decoder = await self._ready(place.decoder, "")
        finally:
            await asyncio.wait((starting,))
        starting.result()

    async def decode(
        self,
        job: Job,
        on_large: Callable[[], None] | None = None,
        holds: AsyncExitStack | None = None,
        process_bytes: Callable[[Work], int] = _nothing_more,
        on_begin: Callable[[float], None] = _not_told,
    ) -> Decoded:
        """Wait for a place, read the files' headers there, wait for memory and decode them. `on_large` is called for a
        large job, which may then wait for a second place, and `on_begin` with the price of the job when its decoding
        begins; see price.py. A cancelled call ends its decoder.

        The result's memory is given back with `holds`, and that of its processing, `process_bytes`; None = when this
        returns.

        Raise MediaProblem where the files are at fault: they are broken, they crash the decoder, or they take more
        memory or time than is allowed or than their headers say. Raise Unavailable where this machine is: it has run
        out of something, or somebody else stopped or killed the decoder.
        """
        async with AsyncExitStack() as own:
            return await self._decode(job, on_large, holds or own, process_bytes, on_begin)

    async def _decode(
        self,
        job: Job,
        on_large: Callable[[], None] | None,
        holds: AsyncExitStack,
        process_bytes: Callable[[Work], int],
        on_begin: Callable[[float], None],
    ) -> Decoded:
        async with self._started(job, on_large, process_bytes) as (place, look, budget):
            return await self._go_on(place, look, job, budget, holds, process_bytes, on_begin)

    async def cut(self, job: Job) -> AsyncGenerator[Piece]:
        """Yield a recording's pieces as they are decoded: the next one once it is asked for. Raise as `decode`. Close
        the generator: until then it has a place."""
        async with self._started(job) as (place, look, budget):
            decoder, work = look.decoder, look.work
            cpu_s, niceness = effort(work, job.cpu_s)
            taking = budget.take(_most_bytes(work, _nothing_more), what="Cutting the recording", tenant=job.tenant)
            async with taking:
                pieces = decoder.cut(job, work, cpu_s, niceness, self._patience)
                try:
                    while True:
                        samples = await self._run(place, decoder, job, cpu_s, lambda: next(pieces, None))
                        if samples is None:
                            return
                        yield Piece(samples, work.recording_s)
                finally:
                    pieces.close()

    @asynccontextmanager
    async def _started(
        self,
        job: Job,
        on_large: Callable[[], None] | None = None,
        process_bytes: Callable[[Work], int] = _nothing_more,
    ) -> AsyncGenerator[_Started]:
        """Wait for a place, and read the headers of the job's files there; wait for a second place for a large job."""
        async with self._place(Lane.SMALL, job, job.size_bytes) as place, self._looked_into(place, job) as look:
            price = price_s(look.work)
            self._schedule.charge(job.tenant, price)
            self._check(job, look.work, process_bytes)
            small = price <= SMALL_S and _most_bytes(look.work, process_bytes) <= self._budgets.small.total_bytes
            if not small and on_large is not None:
                on_large()
            if small or Lane.LARGE in place.lanes:
                yield _Started(place, look, self._budgets.small if small else self._budgets.large)
                return
        async with self._place(Lane.LARGE, job, price) as place, self._looked_into(place, job) as look:
            self._check(job, look.work, process_bytes)
            yield _Started(place, look, self._budgets.large)

    def _check(self, job: Job, work: Work, process_bytes: Callable[[Work], int]) -> None:
        """Raise MediaProblem where the job would take more than it is ever given."""
        price = price_s(work)
        if price > job.cpu_s:
            raise too_large(
                f"Decoding the file would take {price:.3g} s of processor time or more, and {job.cpu_s:g} s are "
                "allowed. Send a shorter or smaller file."
            )
        try:
            most_bytes = _most_bytes(work, process_bytes)
        except (ValueError, ArithmeticError):  # no picture has the size that the decoder says
            raise breaks_decoder() from None
        for needed, most in (
            (work.decoder_bytes, self._memory_bytes),
            (most_bytes, self._budgets.large.total_bytes),
        ):
            if needed > most:
                raise too_large(
                    f"Decoding the file would take {needed >> 20} MiB of memory, and {most >> 20} MiB are allowed. "
                    "Send a shorter or smaller file."
                )

    @asynccontextmanager
    async def _place(self, lane: Lane, job: Job, size: float) -> AsyncGenerator[Place]:
        place = await self._schedule.take(lane, job.tenant, size)
        try:
            yield place
        finally:
            if self._closed or self._schedule.has_work_for(place):
                self._schedule.release(place)
            else:  # before the next request comes
                renewing = asyncio.create_task(self._renew(place), name="renew a decoder")
                self._renewing.add(renewing)
                renewing.add_done_callback(self._renewing.discard)

    async def _renew(self, place: Place) -> None:
        """Give the place a decoder that has seen no file."""
        try:
            place.decoder = await self._ready(place.decoder, "")
        except (Fault, OSError, MemoryError, IsolationMissing) as error:
            place.decoder = None  # the next job tries again, and says it
            logger.warning("no decoder is kept ready: %r", error)
        finally:
            self._schedule.release(place)

    @asynccontextmanager
    async def _looked_into(self, place: Place, job: Job) -> AsyncGenerator[_Look]:
        """Have a decoder at the place read the headers of the job's files. Within the block it holds the job."""
        decoder, place.decoder = place.decoder, None
        try:
            decoder = await self._ready(decoder, job.owner, films=job.is_film)
        except (Fault, OSError, MemoryError, IsolationMissing) as error:
            logger.warning("no decoder for a %s of %d bytes: %r", job.kind, job.size_bytes, error)
            raise unavailable() from None
        work = await self._run(place, decoder, job, LOOK_CPU_S, lambda: decoder.look(job, self._patience))
        try:
            yield _Look(decoder, work)
        finally:
            self._drop_unless_kept(decoder, place)

    async def _go_on(
        self,
        place: Place,
        look: _Look,
        job: Job,
        budget: MemoryBudget,
        holds: AsyncExitStack,
        process_bytes: Callable[[Work], int],
        on_begin: Callable[[float], None],
    ) -> Decoded:
        """Decode the job that the decoder has looked into, once there is memory for it. What its result and their
        processing take stays with `holds`. Large jobs leave the processor to all others."""
        decoder, work = look.decoder, look.work
        taking = budget.take(_most_bytes(work, process_bytes), what="Decoding the media", tenant=job.tenant)
        hold = await holds.enter_async_context(taking)
        cpu_s, niceness = effort(work, job.cpu_s)
        on_begin(price_s(work))
        decoded = await self._run(
            place, decoder, job, cpu_s, lambda: decoder.decode(job, work, cpu_s, niceness, self._patience)
        )
        if decoded.sound_bytes < LONG_SOUND_BYTES:  # a long one leaves in the heap what its blocks took
            place.decoder = decoder
        hold.shrink(hold.size_bytes - work.result_bytes - process_bytes(work))
        return decoded

    async def _run(self, place: Place, decoder: Decoder, job: Job, cpu_s: float, work: Callable[[], T]) -> T:
        """Run one step of a job on a thread. The decoder is dropped where it is of no more use, else it stays with its
        place after a MediaProblem."""
        usable = False
        try:
            result = await self._in_thread(decoder, work)
        except MediaProblem:
            usable, place.decoder = True, decoder
            raise
        except TimeoutError:
            raise too_large(
                f"Decoding the file takes longer than {self._patience.timeout_s:g} s. Send a shorter or smaller file."
            ) from None
        except DecoderHangs:
            logger.warning("a decoder hangs on a %s of %d bytes", job.kind, job.size_bytes)
            raise unavailable() from None
        except DecoderDied as death:
            raise blame(death.exit_code, job, cpu_s) from None
        except NONSENSE:
            logger.warning("a decoder's answer to a %s of %d bytes makes no sense", job.kind, job.size_bytes)
            raise breaks_decoder() from None
        except (Exhausted, OSError, MemoryError) as error:
            logger.warning("cannot decode a %s of %d bytes: %r", job.kind, job.size_bytes, error)
            raise unavailable() from None
        else:
            usable = True
            return result
        finally:
            if not usable:
                self._drop(decoder)

    async def _in_thread(self, decoder: Decoder, work: Callable[[], T]) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            decoder.kill()  # the thread, which can't be cancelled, then meets the end of its socket
            await asyncio.wait((running,))
            running.exception()
            raise

    async def _ready(self, decoder: Decoder | None, owner: str, *, films: bool = False) -> Decoder:
        """Return `decoder` where it lives, has seen no other owner's files and decodes films where it must, else a new
        one."""
        if decoder is not None:
            lives = decoder.alive
            if lives and decoder.owner in ("", owner) and (decoder.decodes_films or not films):
                return decoder
            if not lives and not decoder.owner:
                logger.warning("an idle decoder is gone")
            self._drop(decoder)
        try:
            fresh = await self._fork(films)
        except (TimeoutError, ConnectionError):  # the fork server hangs or is gone
            fresh = await self._fork(films)
        self._all.add(fresh)
        self._granted = fresh.layers
        missing = {layer: why for layer, why in fresh.layers.items() if why and layer in self._required}
        if missing:
            raise IsolationMissing(missing)
        return fresh

    async def _fork(self, films: bool) -> Decoder:
        server = await self._fork_server(films)
        forking = asyncio.get_running_loop().run_in_executor(self._threads, server.fork)
        try:
            return await asyncio.shield(forking)
        except asyncio.CancelledError:
            forking.add_done_callback(lambda done: None if done.exception() else done.result().close())
            raise

    async def _fork_server(self, films: bool) -> ForkServer:
        async with self._starting[films]:
            if (server := self._servers.get(films)) is not None:
                if server.alive:
                    return server
                logger.warning("the decoders' fork server is gone; another one starts")
                server.close()
                del self._servers[films]
            server = ForkServer(self._memory_bytes, self._layers, films=films)
            try:
                await asyncio.get_running_loop().run_in_executor(self._threads, server.wait_ready)
            except BaseException:
                server.close()
                raise
            self._servers[films] = server
            return server

    def _drop_unless_kept(self, decoder: Decoder, place: Place) -> None:
        """Drop a decoder whose job is over: refused, cancelled, died with it, or looked into where small files go."""
        if place.decoder is not decoder:
            self._drop(decoder)

    def _drop(self, decoder: Decoder) -> None:
        self._all.discard(decoder)
        if self._closed:
            decoder.close()
        else:
            self._threads.submit(decoder.close)


def _most_bytes(work: Work, process_bytes: Callable[[Work], int]) -> int:
    """Return what the job takes at most at a time: while it is decoded, or while its result is processed."""
    # An image or a sound is in the decoder's file and here, for a moment.
    return work.result_bytes + max(work.decoder_bytes, work.result_bytes, process_bytes(work))
