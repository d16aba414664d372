"""The output of a turn so far. It is the turn's whole state, and all that another worker needs to resume it."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence

from services.common.derailments import Derailment
from services.gateway.turn.events import Speech, SpeechStarted
from services.gateway.turn.prompt import Prepared, TensorRef
from services.gateway.turn.worker_calls import SpeechDone


class Answer:
    """Prompt, token ids and codec codes of one turn. The talker's requests wait here for tokens.

    The model's length and the talker's frame limit bound it, so there is no queue between thinker and talker. The
    talker takes one token a frame, and the thinker generates far faster.
    """

    def __init__(self, silent_from: int | None = None) -> None:
        """`silent_from`: the token that ends what is spoken; None = all is spoken."""
        self.prepared = Prepared()
        # Set once there is a prompt.
        self.prompt_known = asyncio.Event()
        self.hidden_states: TensorRef | None = None
        self.token_ids: list[int] = []
        # The text is the client's, not a thinker's.
        self.is_given = False
        # The answer has its last token.
        self.ended = False
        # Of the tokens, those of a chain of thought, as far as is known.
        self.reasoning_tokens = 0
        # Where a limit cut the text: the first token that was not delivered. The talker never speaks the last one.
        self.cut_token_ids: list[int] = []
        # A thinker has read the prompt, or where the answer is given, a talker.
        self.prompt_read = False
        self._silent_from = silent_from
        # Tokens that the talker is told; None = all.
        self._spoken: int | None = None
        # Prompt tokens that came from the first thinker's prefix cache.
        self.cached_tokens = 0
        # Set when a thinker is leased: the talker's ticket may then enter its queue.
        self.thinker_granted = asyncio.Event()
        # Codec codes, row-major [frames, codebooks].
        self.codes = array("I")
        self.samples = 0
        self.codebooks = 0
        self.sample_rate = 0
        # None until a talker has begun.
        self.speech_seed: int | None = None
        # How often it had been spoken again when its last frame was made, and in the end.
        self.spoken_again = 0
        # Of speech that has ended: as of a TurnDone.
        self.derailment: Derailment | None = None
        # Set with the next tokens; None = nobody waits for them.
        self._changed: asyncio.Event | None = None

    @property
    def features_read(self) -> bool:
        """Whether anything was made of the prompt's features: tokens, or hidden states."""
        return self.prompt_read or self.hidden_states is not None

    @property
    def speech_began(self) -> bool:
        return self.speech_seed is not None

    @property
    def frames(self) -> int:
        return len(self.codes) // self.codebooks if self.codebooks else 0

    @property
    def generated_tokens(self) -> int:
        """The tokens of text that a thinker made."""
        return 0 if self.is_given else len(self.token_ids)

    def add_tokens(self, token_ids: Sequence[int], *, is_last: bool) -> None:
        if self._spoken is None and self._silent_from is not None and self._silent_from in token_ids:
            # The last token that a talker is told is never spoken.
            self._spoken = len(self.token_ids) + token_ids.index(self._silent_from) + 1
        self.token_ids.extend(token_ids)
        self.ended = self.ended or is_last
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def cut(self, token_ids: Sequence[int]) -> None:
        """End the text before these tokens."""
        if self._spoken is None:
            self.cut_token_ids = list(token_ids[:1])
        self.add_tokens((), is_last=True)

    def begin_speech(self, started: SpeechStarted) -> None:
        self.speech_seed, self.codebooks, self.sample_rate = started.seed, started.codebooks, started.sample_rate

    def add_speech(self, speech: Speech) -> None:
        self.codes.extend(speech.codes)
        self.spoken_again = speech.spoken_again
        self.samples += len(speech.pcm) // 2

    def end_speech(self, done: SpeechDone) -> None:
        self.derailment, self.spoken_again = done.derailment, done.spoken_again

    async def tokens_after(self, count: int) -> tuple[list[int], bool]:
        """Wait for tokens to speak after the first `count`, or for their end. Return (tokens, whether they ended)."""
        while not self._has_after(count):
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()
        return self.token_ids[count : self._spoken], self.ended or self._spoken is not None

    def _has_after(self, count: int) -> bool:
        return self.ended or self._spoken is not None or len(self.token_ids) > count
