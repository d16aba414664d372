"""One Prepare under way: who asks, what it may still take, and how long each stage took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.common.errors import ContextTooLong, TooLarge
from services.common.memory_budget import Hold
from services.common.telemetry.tracing import tracer
from services.preprocess import metrics
from services.preprocess.memory import FILE_COPIES

# Items of one request that are read, decoded or processed at a time. The others wait, and hold nothing yet.
CONCURRENT_ITEMS = 8
File = bytes | bytearray


@dataclass(slots=True)
class Timings:
    """Seconds, summed over the items; the items that were cached, and all."""

    fetch_s: float = 0.0
    decode_s: float = 0.0
    process_s: float = 0.0
    cached_items: int = 0
    items: int = 0

    @contextmanager
    def measure(self, stage: str) -> Generator[None]:
        began = time.perf_counter()
        try:
            with tracer.start_as_current_span(f"antiphon.preprocess.{stage}"):
                yield
        finally:
            took = time.perf_counter() - began
            setattr(self, f"{stage}_s", getattr(self, f"{stage}_s") + took)
            metrics.STAGE_SECONDS.labels(stage).observe(took)


@dataclass(slots=True)
class Preparation:
    """`max_bytes` bounds the bytes of all media files, `max_tokens` the prompt. Both are checked as items come in, so
    that a conversation that cannot fit is refused before all of it is decoded. `files` holds the memory of its files
    and sounds. `free_slot` gives the request's slot to another one; None once it has."""

    request_id: str
    tenant: str
    inline: Mapping[int, File]
    files: Hold
    use_audio: bool
    max_bytes: int
    max_tokens: int
    free_slot: Callable[[], None] | None = None
    tokens: int = 0
    bytes_read: int = 0
    timings: Timings = field(default_factory=Timings)
    loading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT_ITEMS))

    # Held while the length of one long sound is not known yet.
    long_sound: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def reserve(self, size: int, param: str) -> None:
        """Wait for memory for `size` bytes of a file, before they are read. Raise TooLarge as `spend_bytes`."""
        self.spend_bytes(size, param)
        await self.files.grow(FILE_COPIES * size)

    def give_back(self, size: int) -> None:
        """Note that `size` bytes of reserved files are in memory no longer."""
        self.files.shrink(FILE_COPIES * size)

    def spend_bytes(self, size: int, param: str) -> None:
        """Raise TooLarge naming `param` where the request's files are too many bytes together."""
        self.bytes_read += size
        if self.bytes_read > self.max_bytes:
            raise TooLarge(
                f"The request's media has more than {self.max_bytes} bytes together. Send at most {self.max_bytes}.",
                param=param,
            )

    def spend_tokens(self, tokens: int, param: str) -> None:
        """Raise ContextTooLong naming `param` where the prompt is too long with it."""
        self.tokens += tokens
        if self.tokens > self.max_tokens:
            raise ContextTooLong(
                f"With this media the prompt is longer than the {self.max_tokens} tokens that the model takes. "
                "Send fewer, shorter or smaller media.",
                param=param,
            )


class ItemFiles:
    """The files of one item, from when they are read until they are decoded."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self._reserved_bytes = 0
        self.data: list[File] = []

    def add(self, data: File, *, reserved: bool) -> None:
        """Add a file. `reserved`: for this item alone, as an inline file is not."""
        self.data.append(data)
        self._reserved_bytes += len(data) if reserved else 0

    def free(self) -> None:
        """Drop the files and give their memory back."""
        self.data.clear()
        reserved, self._reserved_bytes = self._reserved_bytes, 0
        self._preparation.give_back(reserved)
