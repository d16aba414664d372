"""Keeps one spoken answer, so that it may be sent back by its id."""

from __future__ import annotations

import asyncio
import time

from services.gateway.kept.answers import KeptAnswers


class SpokenAnswer:
    """It is kept once its text is complete, while it is still spoken. Where it broke off before, what was delivered is
    kept. `close` it at the end."""

    def __init__(self, answers: KeptAnswers, tenant: str, id: str) -> None:
        self._answers = answers
        self._tenant = tenant
        self._id = id
        # What is kept, or about to be.
        self._text = ""
        self._keeping: asyncio.Task[float | None] | None = None
        # What it said before it broke off; None = it did not, or its id was never told.
        self._part: str | None = None

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

    def broke_off(self, text: str) -> None:
        """Have `close` keep what was said, unless it is kept by then."""
        self._part = text

    async def close(self) -> None:
        if self._part is not None:
            await self.keep(self._part)
        await self._settle()

    async def _settle(self) -> None:
        if self._keeping is not None:
            await asyncio.shield(self._keeping)

    def expires_unix_s(self) -> float:
        """Return until when the answer is kept; now, where it is not."""
        expires_unix_s = self._keeping.result() if self._keeping is not None and self._keeping.done() else None
        return expires_unix_s if expires_unix_s is not None else time.time()
