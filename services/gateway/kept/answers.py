"""Spoken answers that are kept, so that a client can send them back by their id alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from services.common.errors import Unavailable
from services.gateway import metrics
from services.gateway.kept.audio import AnswerAudio
from services.gateway.kept.store import KeptStore

# Texts that are read at once.
_AT_ONCE = 64

logger = logging.getLogger(__name__)


class KeptAnswers:
    """`store`: None = no answer is kept. `audio`: None = no answer's audio is."""

    def __init__(self, store: KeptStore | None, audio: AnswerAudio | None = None) -> None:
        self._store = store
        self.audio = audio

    @property
    def are_kept(self) -> bool:
        return self._store is not None

    async def keep(self, tenant: str, id: str, text: str) -> float | None:
        """Keep what an answer says. Return until when, Unix seconds; None = it is not kept.

        An answer goes out even if it can't be kept: nothing is raised.
        """
        if self._store is None:
            return None
        try:
            return await self._store.put(tenant, id, json.dumps({"text": text}, ensure_ascii=False).encode())
        except Unavailable:
            metrics.KEPT_FAILURES.labels("answer").inc()
            logger.warning("an answer could not be kept: Redis is away or full")
            return None

    async def texts(self, tenant: str, ids: Iterable[str], max_bytes: int) -> dict[str, str]:
        """Return what the answers with these ids say, without those that are not kept. Raise Unavailable.

        No more are read once they have `max_bytes` together.
        """
        if self._store is None:
            return {}
        wanted, texts, read_bytes = list(dict.fromkeys(ids)), dict[str, str](), 0
        for begin in range(0, len(wanted), _AT_ONCE):
            some = wanted[begin : begin + _AT_ONCE]
            for id, value in zip(some, await self._store.get_many(tenant, some), strict=True):
                if value is not None:
                    texts[id] = json.loads(value)["text"]
                    read_bytes += len(texts[id].encode())
            if read_bytes > max_bytes:
                break
        return texts
