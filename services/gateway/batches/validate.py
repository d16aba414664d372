"""Looks at a batch's input, and tells the control plane where its lines are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import blake2b

from antiphon.v1 import batches_pb2
from services.common.errors import Gone, NotFound, TooLarge
from services.gateway.batches.line import WrongLineError, later_bytes, parse_line
from services.gateway.batches.object_store import CHUNK_BYTES, ObjectStore, file_object
from services.gateway.batches.records import BatchError
from services.gateway.control.batches import ControlBatches
from services.gateway.memory import GatewayMemory
from services.gateway.turn.held_media import SMALL_BYTES

MAX_ERRORS = 100
_LINES_A_CALL = 1000


@dataclass(slots=True)
class Looked:
    """What was found so far. Lines that are empty are none. `later_bytes`: the most that is added to a line when it
    runs."""

    endpoint: str
    max_lines: int
    max_line_bytes: int
    later_bytes: int
    memory: GatewayMemory
    places: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    errors: list[BatchError] = field(default_factory=list[BatchError])
    model: str = ""
    # Digests: ids may be long.
    _ids: set[bytes] = field(default_factory=set[bytes])
    # Of the file, with those that are empty.
    _number: int = 0
    _rest: bytes = b""
    _offset: int = 0
    lines: int = 0

    @property
    def rest_bytes(self) -> int:
        """How much there is of a line whose end has not come."""
        return len(self._rest)

    @property
    def is_over(self) -> bool:
        return len(self.errors) >= MAX_ERRORS or self.lines > self.max_lines

    @property
    def _too_long(self) -> str:
        return f"The line is larger than {self.max_line_bytes} bytes."

    def add(self, chunk: bytes) -> None:
        data = self._rest + chunk
        start = 0
        while not self.is_over and (end := data.find(b"\n", start)) >= 0:
            self._add_line(data[start:end])
            self._offset += end + 1 - start
            start = end + 1
        self._rest = data[start:]
        if len(self._rest) > self.max_line_bytes and not self.is_over:
            self.refuse_next(self._too_long)
            self.lines = self.max_lines + 1  # what follows can't be told from this line

    def refuse_next(self, message: str) -> None:
        """Refuse the line whose end has not come, as one that is too large."""
        self._number += 1
        self._refuse(message)

    def end(self) -> None:
        if not self.lines and not self.errors:
            self.errors.append(BatchError("empty_file", "The input file has no lines."))
        elif self.lines > self.max_lines and not self.errors:
            self.errors.append(
                BatchError("too_many_lines", f"The input file has more than {self.max_lines} lines. Split it.")
            )

    def _add_line(self, raw: bytes) -> None:
        self._number += 1
        if not raw.strip() or (self._number == 1 and raw.strip() == b"\xef\xbb\xbf"):
            return
        if len(raw) > self.max_line_bytes:
            self._refuse(self._too_long)
            return
        try:
            self.memory.check_most(self.memory.line_most_bytes(len(raw), self.later_bytes), what="The line")
        except TooLarge as error:
            self._refuse(error.message)
            return
        self.lines += 1
        start = 3 if self._number == 1 and raw.startswith(b"\xef\xbb\xbf") else 0
        try:
            line = parse_line(raw[start:], self.endpoint, self.memory.max_text_bytes)
        except WrongLineError as error:
            self.errors.append(BatchError(error.code, error.message, error.param, self._number))
            return
        id = blake2b(line.custom_id.encode(), digest_size=16).digest()
        if id in self._ids:
            message = f"'custom_id' is that of another line: '{line.custom_id[:100]}'."
            self.errors.append(BatchError("duplicate_custom_id", message, "custom_id", self._number))
            return
        self._ids.add(id)
        self.places.append((self._offset + start, len(raw) - start))
        if not self.model and isinstance(name := line.body.get("model"), str):
            self.model = name

    def _refuse(self, message: str) -> None:
        self.errors.append(BatchError("line_too_large", message, line=self._number))


async def validate(
    runner: str,
    job: batches_pb2.Job,
    control: ControlBatches,
    store: ObjectStore,
    memory: GatewayMemory,
    *,
    max_line_bytes: int,
    kept_response_bytes: int,
) -> None:
    """Validate a batch's input, as far as there is room in memory for it: wait for that in order. A line that never has
    room when it runs fails the batch.

    Raise Gone where another runner does so by now, and Unavailable.
    """
    batch = job.batch
    added_bytes = later_bytes(batch.endpoint, kept_response_bytes)
    looked = Looked(batch.endpoint, job.max_lines, max_line_bytes, added_bytes, memory)
    told = 0
    await control.add_lines(runner, batch.id, 1, ())
    file = await _file(control, batch)
    if isinstance(file, BatchError):
        looked.errors.append(file)
    else:
        try:
            async with aclosing(_chunks(batch, file, store, memory, looked)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(looked.add, chunk)
                    if looked.is_over:
                        break
                    told = await _tell(runner, batch.id, control, looked, told, least=_LINES_A_CALL)
        except TooLarge as error:
            looked.refuse_next(error.message)
        looked.end()
        if not looked.errors:
            told = await _tell(runner, batch.id, control, looked, told, least=1)
    await control.end_validation(runner, batch.id, looked.errors, looked.lines, looked.model)


async def _chunks(
    batch: batches_pb2.Batch, file_bytes: int, store: ObjectStore, memory: GatewayMemory, looked: Looked
) -> AsyncGenerator[bytes]:
    """Yield the input, and the end of its last line where that has none. Hold what a chunk takes with what is there of
    its first line. Raise TooLarge where there never is room for a line."""

    def takes(rest_bytes: int) -> int:
        """Return what joining, splitting and parsing take."""
        data_bytes = rest_bytes + min(CHUNK_BYTES, file_bytes)
        return data_bytes + memory.body_bytes(data_bytes) if file_bytes > SMALL_BYTES else 0

    most = takes(looked.max_line_bytes)
    taking = memory.budget.take(0, what="The batch's input", tenant=batch.tenant, most_bytes=most)
    async with taking as hold, aclosing(store.chunks(file_object(batch.input_file_id), 0, file_bytes)) as chunks:
        while True:
            if (more := takes(looked.rest_bytes) - hold.size_bytes) > 0:
                await hold.grow(more)
            else:
                hold.shrink(-more)
            if (chunk := await anext(chunks, None)) is None:
                break
            yield chunk
            del chunk
        if looked.rest_bytes:
            yield b"\n"


async def _file(control: ControlBatches, batch: batches_pb2.Batch) -> int | BatchError:
    """Return the size of the input, or why there is none."""
    try:
        return (await control.file(batch.tenant, batch.input_file_id)).bytes
    except (NotFound, Gone):
        return BatchError("input_file_gone", "The input file is gone.", "input_file_id")


async def _tell(runner: str, batch_id: str, control: ControlBatches, looked: Looked, told: int, *, least: int) -> int:
    """Tell of the lines that were found, unless they are fewer than `least`. Return how many were told in all."""
    while len(looked.places) >= least:
        some, looked.places = looked.places[:_LINES_A_CALL], looked.places[_LINES_A_CALL:]
        lines = [batches_pb2.InputLine(offset=offset, bytes=size) for offset, size in some]
        # The first call of all forgets what another runner told.
        await control.add_lines(runner, batch_id, told + 1, lines)
        told += len(some)
    return told
