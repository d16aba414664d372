"""The models that are served now, read from the queues' store at most twice a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from services.common.queues.tickets import ServedModel

FRESH_S = 0.5


class ModelSource(Protocol):
    async def models(self) -> dict[str, ServedModel]:
        """Raise Unavailable where the store is away."""
        ...


class ModelDirectory:
    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self._models: Mapping[str, ServedModel] = {}
        self._read_s = float("-inf")
        self._reading = asyncio.Lock()

    async def models(self) -> Mapping[str, ServedModel]:
        """Return the models by name. Raise Unavailable."""
        async with self._reading:
            if time.monotonic() - self._read_s > FRESH_S:
                self._models = await self._source.models()
                self._read_s = time.monotonic()
            return self._models
