"""Keeps one spoken answer, so that it may be sent back by its id, and where the gateway is set so, its audio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from services.gateway.kept.answers import KeptAnswers
from services.gateway.kept.until import KeptUntil
from services.gateway.turn.events import TurnEvent


class SpokenAnswer:
    """It is kept once its text is complete, while it is still spoken. Where it broke off before, what was delivered is
    kept, without its audio. `close` it at the end."""

    def __init__(self, answers: KeptAnswers, tenant: str, id: str) -> None:
        self._answers = answers
        self._tenant = tenant
        self._id = id
        # What is kept, or about to be.
        self._text = ""
        self._keeping: asyncio.Task[float | None] | None = None
        # What it said before it broke off; None = it did not, or its id was never told.
        self._part: str | None = None
        # None = its audio is not kept, or is in the hands of AnswerAudio.
        self._recording = answers.audio.record() if answers.audio is not None else None
        self._file_id = ""

    def record(self, events: Sequence[TurnEvent]) -> None:
        """Add what it says now to its audio."""
        if self._recording is not None:
            self._recording.add(events)

    def begin_to_keep(self, text: str) -> None:
        """Keep its text without a wait: Redis may be slow, and speech must go on."""
        self._text = text
        self._keeping = asyncio.create_task(self._answers.keep(self._tenant, self._id, text), name=f"keep {self._id}")

    async def keep(self, text: str) -> None:
        """Wait until its text is kept, or can't be."""
        if self._keeping is None or self._text != text:
            await self._settle()
            self.begin_to_keep(text)
        await self._settle()

    async def complete(self, text: str) -> None:
        """Keep its text, as `keep`, and its audio: all of it was recorded."""
        await self.keep(text)
        audio, recording = self._answers.audio, self._recording
        if audio is None or recording is None or (expires_unix_s := self._expires_unix_s()) is None:
            return
        self._file_id = audio.keep(recording, self._tenant, self._id, expires_unix_s)
        if self._file_id:
            self._recording = None

    def broke_off(self, text: str) -> None:
        """Have `close` keep what was said, unless it is kept by then."""
        self._part = text

    async def close(self) -> None:
        if self._recording is not None:
            self._recording.close()
        if self._part is not None:
            await self.keep(self._part)
        await self._settle()

    async def _settle(self) -> None:
        if self._keeping is not None:
            await asyncio.shield(self._keeping)

    def until(self) -> KeptUntil:
        """Return until when the answer is kept; now, where it is not."""
        expires_unix_s = self._expires_unix_s()
        return KeptUntil(expires_unix_s if expires_unix_s is not None else time.time(), self._file_id)

    def _expires_unix_s(self) -> float | None:
        return self._keeping.result() if self._keeping is not None and self._keeping.done() else None
