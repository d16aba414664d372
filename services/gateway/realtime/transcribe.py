"""Texts of what users say, by the model that answers them. They are for the client: the model reads the audio."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator

from services.common.errors import INTERNAL, AntiphonError, Capacity, Fault
from services.gateway.http.transcription.languages import transcription_prompt
from services.gateway.realtime.asking import Asking
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.events import Emit, TranscriptDelta, TranscriptDone, TranscriptFailed
from services.gateway.realtime.input_options import Transcription
from services.gateway.turn.conversation import AudioPart, InlineSource, Message, TextPart
from services.gateway.turn.events import Usage
from services.gateway.turn.held_media import HeldMedia
from services.gateway.turn.intent import Sampling

# Items of one session that may wait.
_MOST_WAITING = 8

logger = logging.getLogger(__name__)


class Transcriber:
    """Transcribes the items of one session, one after another, beside its responses. `changed` is called for each, with
    what it used, or `failed`, and `rested` once none waits any more."""

    def __init__(
        self,
        asking: Asking,
        emit: Emit,
        changed: Callable[[Usage], None],
        failed: Callable[[AntiphonError], None],
        rested: Callable[[], None],
    ) -> None:
        self._asking = asking
        self._emit = emit
        self._changed = changed
        self._failed = failed
        self._rested = rested
        self._waiting: deque[tuple[Item, Transcription]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def add(self, item: Item, options: Transcription) -> None:
        """Transcribe the audio of an item of the user. Its events follow."""
        if len(self._waiting) >= _MOST_WAITING:
            error = Capacity(
                f"{_MOST_WAITING} items wait for their transcripts, which is the most.", code="too_many_transcriptions"
            )
            await self._emit(TranscriptFailed(item.id, error))
            return
        self._waiting.append((item, options))
        if self._work is None:
            self._work = asyncio.create_task(self._run(), name="transcribe")

    @property
    def items(self) -> Iterator[Item]:
        """Those that are transcribed or wait."""
        return (item for item, _ in self._waiting)

    @property
    def is_busy(self) -> bool:
        return self._work is not None

    async def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                item, options = self._waiting[0]
                await self._transcribe(item, options)
                self._waiting.popleft()
        finally:
            self._work = None
            self._rested()

    async def _transcribe(self, item: Item, options: Transcription) -> None:
        content = item.audio
        if content is None:
            return
        task = transcription_prompt(options.language, options.prompt)
        parts = (AudioPart(f"{item.id}.content[0]", InlineSource(0, "wav")), TextPart("prompt", task))

        async def told(text: str) -> None:
            await self._emit(TranscriptDelta(item.id, text))

        try:
            text, usage = await self._asking.text(
                (Message("user", parts),), HeldMedia([content.wav]), Sampling(temperature=0.0), on_text=told
            )
        except AntiphonError as error:
            await self._emit(TranscriptFailed(item.id, error))
            self._failed(error)
            return
        except Exception:
            logger.exception("a transcription failed")
            await self._emit(TranscriptFailed(item.id, Fault(INTERNAL)))
            return
        content.transcript = text
        self._changed(usage)
        await self._emit(TranscriptDone(item.id, text, usage))
