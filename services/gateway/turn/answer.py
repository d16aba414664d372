"""The answer so far: all that is needed to run a stage again on another worker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from antiphon.v1 import common_pb2, preprocess_pb2


class Answer:
    """Prompt, token ids and codec codes of one turn. The talker's requests wait here for tokens.

    The model's length and the talker's frame limit bound it, so there is no queue between thinker and talker. The
    talker takes one token a frame, and the thinker generates far faster.
    """

    def __init__(self) -> None:
        self.prepared = preprocess_pb2.PrepareResponse()
        self.hidden_states: common_pb2.TensorRef | None = None
        self.token_ids: list[int] = []
        self.ended = False
        # Codec codes, row-major [frames, codebooks].
        self.codes: list[int] = []
        self.codebooks = 0
        self._changed = asyncio.Event()

    def add_tokens(self, token_ids: Sequence[int], *, is_last: bool) -> None:
        self.token_ids.extend(token_ids)
        self.ended = self.ended or is_last
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def frames(self) -> int:
        return len(self.codes) // self.codebooks if self.codebooks else 0

    async def tokens_after(self, count: int) -> tuple[list[int], bool]:
        """Wait for tokens after the first `count`, or for the end. Return (tokens, whether the text has ended)."""
        while len(self.token_ids) <= count and not self.ended:
            await self._changed.wait()
        return self.token_ids[count:], self.ended
