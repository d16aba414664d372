"""The audio of spoken answers, kept as files of the object store for as long as their texts are.

An answer waits for none of it. Its samples go to the disk while it is spoken. Once it is complete it names a file, and
the samples go into the store after that: until they are there, the file is not found. The file has a row in the control
plane, as all files have, so that its tenant alone finds it and a runner removes it once it has expired.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from services.common.errors import AntiphonError, Capacity, Unavailable
from services.gateway import metrics
from services.gateway.batches.object_store import ObjectStore
from services.gateway.batches.records import ANSWER_AUDIO, Records
from services.gateway.http.files.upload import Upload
from services.gateway.kept.recording import Recording
from services.gateway.memory import GatewayMemory

# Recordings that are stored at a time, and that wait for it.
_AT_A_TIME = 2
_MOST_WAITING = 256
_CHUNK_BYTES = 1 << 20
# While the store or the control plane is away. The samples are on the disk.
_TRY_FOR_S, _FIRST_BACKOFF_S, _LAST_BACKOFF_S = 120.0, 0.5, 15.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A recording that is complete."""

    recording: Recording
    tenant: str
    filename: str
    file_id: str
    expires_unix_s: float


class AnswerAudio:
    """Stores recordings. `run` it."""

    def __init__(self, records: Records, store: ObjectStore, memory: GatewayMemory) -> None:
        self._records = records
        self._store = store
        self._memory = memory
        self._waiting: asyncio.Queue[_Whole] = asyncio.Queue(_MOST_WAITING)
        self._drains = False

    def record(self) -> Recording:
        return Recording(self._memory.spill)

    def keep(self, recording: Recording, tenant: str, audio_id: str, expires_unix_s: float) -> str:
        """Have a recording stored until then, and closed. Return the id of its file; "" = it is not kept, and is the
        caller's to close."""
        if not recording.holds_speech or self._waiting.full():
            return _not_kept("too many wait for the object store" if recording.holds_speech else "the disk has no room")
        # As other ids of files, it sorts by its time.
        file_id = f"file-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
        self._waiting.put_nowait(_Whole(recording, tenant, f"{audio_id}.wav", file_id, expires_unix_s))
        return file_id

    async def run(self) -> None:
        """Work until cancelled. What then waits is not stored."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(_AT_A_TIME):
                    tasks.create_task(self._run(), name=f"answer audio {number}")
        finally:
            while not self._waiting.empty():
                self._waiting.get_nowait().recording.close()

    async def drain(self) -> None:
        """Wait until everything is stored, or could not be at once."""
        self._drains = True
        await self._waiting.join()

    async def _run(self) -> None:
        while True:
            whole = await self._waiting.get()
            try:
                await self._store_in_time(whole)
            finally:
                whole.recording.close()
                self._waiting.task_done()

    async def _store_in_time(self, whole: _Whole) -> None:
        """Try again while what it needs is away."""
        until_s, backoff_s = time.monotonic() + _TRY_FOR_S, _FIRST_BACKOFF_S
        while True:
            try:
                await self._store_one(whole)
            except (Unavailable, Capacity) as error:
                if self._drains or time.monotonic() + backoff_s > until_s:
                    _not_kept(str(error))
                    return
            except (AntiphonError, OSError) as error:
                _not_kept(str(error))
                return
            else:
                return
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)

    async def _store_one(self, whole: _Whole) -> None:
        recording = whole.recording
        if not await recording.settle():
            raise OSError("the disk has no room")
        async with AsyncExitStack() as stack:
            upload = Upload(self._records, self._store, self._memory, stack)
            try:
                await upload.begin_file(whole.tenant, whole.filename, ANSWER_AUDIO, whole.file_id)
                await upload.write(recording.header)
                for offset in range(0, recording.pcm_bytes, _CHUNK_BYTES):
                    size_bytes = min(_CHUNK_BYTES, recording.pcm_bytes - offset)
                    await upload.write(await recording.read(offset, size_bytes))
                await upload.end(max(1, math.ceil(whole.expires_unix_s - time.time())))
            except BaseException as error:
                await asyncio.shield(upload.abandon(error))
                raise


def _not_kept(why: str) -> str:
    metrics.KEPT_FAILURES.labels("audio").inc()
    logger.warning("the audio of an answer could not be kept: %s", why)
    return ""
