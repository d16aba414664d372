"""The lines that a runner works on, and their results until they are stored.

taken ─▶ read ─▶ waits for room ─▶ executed ─▶ its result waits for an object ─▶ stored
           └────────────┴─────────────┴─▶ returned: cancelled, no room, an error that may pass

A line takes from the requests' memory before it is read, and its endpoint's request goes on with that. A large one that
must wait for room is read again after that, and meanwhile holds nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

from antiphon.v1 import batches_pb2
from services.common.errors import AntiphonError, Capacity, Gone, TooLarge, Unavailable
from services.gateway import metrics
from services.gateway.batches.custom_id import read_custom_id
from services.gateway.batches.execute import EndpointResponse, LineExecutor
from services.gateway.batches.line import (
    KEY_REVOKED,
    TOO_OFTEN,
    InputLine,
    OutputLine,
    WrongLineError,
    answered,
    custom_id_of,
    later_bytes,
    parse_line,
    unanswered,
)
from services.gateway.batches.object_store import ObjectStore, file_object, results_folder
from services.gateway.batches.records import BatchError
from services.gateway.batches.room import Queues, Room, queues_of
from services.gateway.control.batches import ControlBatches
from services.gateway.memory import GatewayMemory, RequestMemory
from services.gateway.turn.admission import Admission, new_request_id
from services.gateway.turn.held_media import SMALL_BYTES
from services.gateway.turn.intent import Principal

MAX_FAILURES = 5
"""After so many failures that may pass, an error is the line's result."""
FLUSH_S = 1.0
"""How long a result waits for others, to be stored with them."""
FLUSH_BYTES = 4 * 1024**2
_RETRY_S = 5.0
_LONGEST_RETRY_S = 60.0
_STORE_RETRY_S = 1.0
_MODEL_AWAY = "model_not_found"
logger = logging.getLogger(__name__)
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Again:
    """The line is to be run again, by whoever takes it after so long. `has_failed`: it counts as a failure."""

    after_s: float
    has_failed: bool = False


class Lines:
    """`holder_of`: a key's id and its tenant → who asks; None = this gateway does not know the key (yet).
    `kept_response_bytes`: the most that an earlier response adds to a request."""

    def __init__(
        self,
        runner: str,
        control: ControlBatches,
        store: ObjectStore,
        executor: LineExecutor,
        admission: Admission,
        room: Room,
        holder_of: Callable[[str, str], Principal | None],
        memory: GatewayMemory,
        *,
        kept_response_bytes: int,
    ) -> None:
        self._runner = runner
        self._control = control
        self._store = store
        self._executor = executor
        self._admission = admission
        self._room = room
        self._holder_of = holder_of
        self._memory = memory
        self._kept_response_bytes = kept_response_bytes
        self._running: dict[Key, asyncio.Task[OutputLine | Again]] = {}
        self._done: dict[str, list[tuple[int, OutputLine]]] = {}
        self._again: list[batches_pb2.ReturnedLine] = []
        # Lines whose results or returns are being told: they are held still.
        self._telling: set[Key] = set()
        self._objects = 0
        self._full = asyncio.Event()
        self.freed = asyncio.Event()
        """Set whenever there is room for another line."""

    @property
    def held(self) -> dict[str, set[int]]:
        """The lines that are worked on, or have a result that is not stored, by their batch."""
        held: dict[str, set[int]] = {}
        returned = ((line.batch_id, line.number) for line in self._again)
        done = ((batch_id, number) for batch_id, results in self._done.items() for number, _ in results)
        for batch_id, number in (*self._running, *done, *returned, *self._telling):
            held.setdefault(batch_id, set()).add(number)
        return held

    @property
    def count(self) -> int:
        return sum(map(len, self.held.values()))

    def start(self, line: batches_pb2.Line, tasks: asyncio.TaskGroup) -> None:
        key = line.batch_id, line.number
        if key not in self._running:
            began_s = time.monotonic()

            def ended(task: asyncio.Task[OutputLine | Again]) -> None:
                del self._running[key]
                outcome = Again(0.0) if task.cancelled() else task.result()
                self._add(line, outcome, time.monotonic() - began_s)

            task = tasks.create_task(self._run(line), name=f"batch line {key}")
            task.add_done_callback(ended)
            self._running[key] = task
            metrics.BATCH_RUNNING.set(len(self._running))

    async def stop(self, batch_ids: Iterable[str] | None = None) -> None:
        """End the lines of these batches, or all, and give them back."""
        stopped = [task for (id, _), task in self._running.items() if batch_ids is None or id in batch_ids]
        for task in stopped:
            task.cancel()
        await asyncio.gather(*stopped, return_exceptions=True)

    def hurry(self) -> None:
        """Store what there is now."""
        self._full.set()

    async def run(self) -> None:
        """Store results and give lines back, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(FLUSH_S):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            try:
                await self.flush()
            except Unavailable:
                await asyncio.sleep(_STORE_RETRY_S)  # they are held until they are stored, and none is lost

    async def flush(self) -> None:
        """Store the results that there are, and give back what is to be run again. Raise Unavailable; then they
        stay."""
        for batch_id in list(self._done):
            results = self._done.pop(batch_id)
            with self._tell({(batch_id, number) for number, _ in results}):
                try:
                    await self._store_results(batch_id, results)
                except BaseException:
                    self._done[batch_id] = [*results, *self._done.get(batch_id, ())]
                    raise
        if self._again:
            again, self._again = self._again, []
            with self._tell({(line.batch_id, line.number) for line in again}):
                try:
                    await self._control.give_back(self._runner, again)
                except BaseException:
                    self._again = [*again, *self._again]
                    raise
            self.freed.set()

    @contextmanager
    def _tell(self, keys: set[Key]) -> Generator[None]:
        """Count lines as held in the block."""
        self._telling |= keys
        try:
            yield
        finally:
            self._telling -= keys

    async def _store_results(self, batch_id: str, lines: list[tuple[int, OutputLine]]) -> None:
        """Write the results into an object of their own, then tell. An object that nobody was told of is nothing."""
        self._objects += 1
        name = f"{results_folder(batch_id)}/{self._runner}-{self._objects:08d}"
        results: list[batches_pb2.Result] = []
        async with self._store.writing(name) as writer:
            for number, line in lines:
                results.append(
                    batches_pb2.Result(number=number, offset=writer.bytes, bytes=len(line.json), is_error=line.is_error)
                )
                await writer.write(line.json)
        taken = await self._control.store(self._runner, batch_id, name, results)
        if taken < len(results):
            logger.info(
                "%d results of %s were not taken: another runner has their lines", len(results) - taken, batch_id
            )
        self.freed.set()

    async def _run(self, line: batches_pb2.Line) -> OutputLine | Again:
        try:
            return await self._outcome(line)
        except (Unavailable, Capacity):
            return Again(_RETRY_S)
        except Gone:  # the input is not in the store
            return unanswered("", BatchError("input_file_gone", "The input file is gone."))
        except Exception:
            logger.exception("line %d of %s failed", line.number, line.batch_id)
            return Again(_RETRY_S, has_failed=True)

    def _add(self, line: batches_pb2.Line, outcome: OutputLine | Again, took_s: float) -> None:
        metrics.BATCH_RUNNING.set(len(self._running))
        if isinstance(outcome, Again):
            metrics.BATCH_LINES.labels("returned").inc()
            self._again.append(
                batches_pb2.ReturnedLine(
                    batch_id=line.batch_id,
                    number=line.number,
                    after_ms=round(outcome.after_s * 1000),
                    has_failed=outcome.has_failed,
                )
            )
        else:
            metrics.BATCH_LINES.labels("failed" if outcome.is_error else "completed").inc()
            metrics.BATCH_LINE.observe(took_s)
            self._done.setdefault(line.batch_id, []).append((line.number, outcome))
            if sum(len(each.json) for _, each in self._done[line.batch_id]) >= FLUSH_BYTES:
                self._full.set()
        if not self._running:
            self._full.set()  # nothing to wait for

    async def _outcome(self, line: batches_pb2.Line) -> OutputLine | Again:
        request_id = new_request_id()
        try:
            return await self._outcome_of(line, request_id)
        finally:
            self._room.leave(request_id)

    async def _outcome_of(self, line: batches_pb2.Line, request_id: str) -> OutputLine | Again:
        has_room, file = False, file_object(line.input_file_id)
        while True:
            async with self._memory.request(line.tenant) as memory:
                try:
                    await memory.take_line(line.bytes, later_bytes(line.endpoint, self._kept_response_bytes))
                except TooLarge as error:  # the gateway that validated it has more memory
                    custom_id = await read_custom_id(
                        self._store, file, line.offset, line.bytes, self._memory, line.tenant
                    )
                    return unanswered(custom_id, BatchError(error.code, error.message))
                raw = await self._store.read(file, line.offset, line.bytes)
                if line.key_revoked:
                    return unanswered(await asyncio.to_thread(custom_id_of, raw), KEY_REVOKED)
                principal = self._holder_of(line.key_id, line.tenant)
                if principal is None:
                    return Again(_RETRY_S)
                try:
                    asked = await asyncio.to_thread(parse_line, raw, line.endpoint, self._memory.max_text_bytes)
                except WrongLineError as error:  # the file is another one than was validated
                    custom_id = await asyncio.to_thread(custom_id_of, raw)
                    return unanswered(custom_id, BatchError(error.code, error.message))
                del raw
                queues = () if has_room else await self._queues_of(principal, line.endpoint, asked)
                if await self._room.enter_now(queues, request_id):
                    return await self._execute(line, request_id, principal, asked, memory)
                if line.bytes <= SMALL_BYTES:
                    await self._room.enter(queues, request_id)
                    return await self._execute(line, request_id, principal, asked, memory)
                del asked
            await self._room.enter(queues, request_id)
            has_room = True

    async def _execute(
        self,
        line: batches_pb2.Line,
        request_id: str,
        principal: Principal,
        asked: InputLine,
        memory: RequestMemory,
    ) -> OutputLine | Again:
        answer = await self._executor.execute(principal, request_id, line.endpoint, asked, memory)
        again = again_of(answer)
        if again is None:
            return answered(asked.custom_id, answer.status, answer.request_id, answer.body)
        if again.has_failed and line.failures + 1 >= MAX_FAILURES:
            if answer.body:
                return answered(asked.custom_id, answer.status, answer.request_id, answer.body)
            return unanswered(asked.custom_id, TOO_OFTEN)
        return again

    async def _queues_of(self, principal: Principal, endpoint: str, asked: InputLine) -> Queues:
        """Return what the line has to wait for; () = nothing, since its endpoint will refuse it. Raise Unavailable."""
        name = asked.body.get("model")
        try:
            model = await self._admission.find(principal, name if isinstance(name, str) else None)
        except Unavailable:
            raise
        except AntiphonError:
            return ()
        return queues_of(model.name, endpoint, asked.body)


def again_of(answer: EndpointResponse) -> Again | None:
    """Return when a line is to be run again; None = its answer is its result."""
    after_ms = answer.headers.get("retry-after-ms", "")
    # A 504 that says when has waited for a worker to the deadline, and none has worked on it.
    if answer.status in (429, 503) or (answer.status == 504 and after_ms):
        after_s = int(after_ms) / 1000 if after_ms.isdigit() else _RETRY_S
        return Again(min(max(after_s, 1.0), _LONGEST_RETRY_S))
    # A model that is away for a moment is as one that is unknown; a key that was rotated gets its successor.
    if answer.status >= 500 or answer.status == 401 or answer.error_code == _MODEL_AWAY:
        return Again(_RETRY_S, has_failed=True)
    return None
