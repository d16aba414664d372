"""The output of a turn so far. It is the turn's whole state, and all that another worker needs to resume it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from antiphon.v1 import common_pb2, preprocess_pb2, talker_pb2, thinker_pb2


class Answer:
    """Prompt, token ids and codec codes of one turn. The talker's requests wait here for tokens.

    The model's length and the talker's frame limit bound it, so there is no queue between thinker and talker. The
    talker takes one token a frame, and the thinker generates far faster.
    """

    def __init__(self) -> None:
        self.prepared = preprocess_pb2.PrepareResponse()
        self.hidden_states: common_pb2.TensorRef | None = None
        self.token_ids: list[int] = []
        # The answer has its last token.
        self.ended = False
        self.generated = thinker_pb2.GenerateDone()
        # Prompt tokens that came from the first thinker's prefix cache.
        self.cached_tokens = 0
        # Set when a thinker is leased: the talker's ticket may then enter its queue.
        self.thinker_granted = asyncio.Event()
        # Codec codes, row-major [frames, codebooks].
        self.codes: list[int] = []
        self.samples = 0
        self.codebooks = 0
        self.sample_rate = 0
        # None until a talker has begun.
        self.speech_seed: int | None = None
        self.spoken = talker_pb2.SpeakDone()
        self._changed = asyncio.Event()

    @property
    def speech_began(self) -> bool:
        return self.speech_seed is not None

    @property
    def frames(self) -> int:
        return len(self.codes) // self.codebooks if self.codebooks else 0

    def add_tokens(self, token_ids: Sequence[int], *, is_last: bool) -> None:
        self.token_ids.extend(token_ids)
        self.ended = self.ended or is_last
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def begin_speech(self, started: talker_pb2.SpeakStarted) -> None:
        self.speech_seed, self.codebooks, self.sample_rate = started.seed, started.codebooks, started.sample_rate

    def add_speech(self, speech: talker_pb2.Speech) -> None:
        self.codes.extend(speech.codes)
        self.samples += len(speech.pcm) // 2

    async def tokens_after(self, count: int) -> tuple[list[int], bool]:
        """Wait for tokens after the first `count`, or for the end. Return (tokens, whether the text has ended)."""
        while len(self.token_ids) <= count and not self.ended:
            await self._changed.wait()
        return self.token_ids[count:], self.ended
