"""What all encoders of a gateway share: a part of the requests' memory, and threads to work in.

A frame of speech takes up to 0.6 ms, most of it in FFmpeg, without the interpreter.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from services.common.errors import Capacity
from services.common.memory_budget import MemoryBudget
from services.gateway.audio.formats import CODECS
from services.gateway.memory import RequestMemory

# What all encoders may take together of the requests' memory: in 1 GiB, 36 of flac or 512 of mp3.
_PART = 4
# More threads would wait for the interpreter.
_MOST_THREADS = 8
# How long an answer may wait for its encoder's memory.
_WAIT_S = 5.0

R = TypeVar("R")


def encoder_bytes(audio_format: str) -> int:
    """Return what an encoder takes in use; samples have none."""
    codec = CODECS.get(audio_format)
    return codec.memory_bytes if codec is not None else 0


class Encoding:
    def __init__(self, requests: MemoryBudget) -> None:
        """`requests`: the budget of the requests that hold the encoders."""
        largest_bytes = max(codec.memory_bytes for codec in CODECS.values())
        # It only says how many: what they take is held in `requests`.
        self.share = MemoryBudget(max(requests.total_bytes // _PART, largest_bytes), "encoders")
        # Apart from those that read large bodies: speech is due in real time.
        threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")

    @asynccontextmanager
    async def room(
        self, audio_format: str, memory: RequestMemory, *, param: str = "audio.format"
    ) -> AsyncGenerator[None]:
        """Hold the memory of an encoder inside the block, in the request's own. Samples need none. Raise Capacity,
        which names the field `param`, where there is none in time; TooLarge where there never is.
        """
        size_bytes = encoder_bytes(audio_format)
        async with AsyncExitStack() as held:
            if size_bytes:
                what = f"An encoder of {audio_format} speech"
                try:
                    async with asyncio.timeout(_WAIT_S):
                        taken = self.share.take(size_bytes, what=what, tenant=memory.tenant, param=param)
                        await held.enter_async_context(taken)
                        await held.enter_async_context(memory.beside(size_bytes, what=what, param=param))
                except TimeoutError:
                    raise Capacity(
                        f"{what} needs {size_bytes} bytes of memory. All requests together have "
                        f"{memory.total_bytes}, of which encoders may take {self.share.total_bytes}, and too little is "
                        "left. Ask for wav or samples, or send the request again later.",
                        param=param,
                        code="memory_full",
                        retry_after_s=5,
                    ) from None
            yield

    async def run(self, work: Callable[[], R]) -> R:
        """Return what `work` returns. A cancelled caller waits for its end, so that it may then free what it used."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        """Wait for the work that runs, and end the threads."""
        self._pool.shutdown()
