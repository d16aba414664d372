"""One answer being spoken: what its client sees (SpeechStream), and what the engine's thread keeps (SpeechState)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from antiphon.v1 import talker_pb2
from services.common.errors import BadInput
from services.talker.conditioning import Prompt
from services.talker.sampling import SamplingParams

End = talker_pb2.SpeechEnd.ValueType


@dataclass(frozen=True)
class SpeechRequest:
    """What to speak and how. delivered_codes: int64 [frames, codebooks], spoken before a worker was lost."""

    prompt: Prompt
    sampling: SamplingParams
    max_frames: int
    delivered_codes: Tensor


@dataclass(frozen=True)
class SpeechChunk:
    """Frames in order, each with its own samples.

    codes: int64 [frames, codebooks]; samples: float32 in ±1. first_frame and first_sample count from the answer's
    begin.
    text_tokens: how many of the answer's tokens the talker had been fed when the last frame was made.
    """

    first_frame: int
    codes: NDArray[np.int64]
    first_sample: int
    samples: NDArray[np.float32]
    text_tokens: int


@dataclass(frozen=True)
class SpeechSummary:
    """How an answer ended. Times are in milliseconds; means are over the frames made here, 0 where there are none."""

    reason: End
    frames: int
    samples: int
    first_frame_ms: float = 0.0
    talker_ms_per_frame: float = 0.0
    predictor_ms_per_frame: float = 0.0
    codec_ms_per_frame: float = 0.0


@dataclass
class SpokenText:
    """The answer's tokens as they come. What is spoken is all of them but the last."""

    spoken: list[int]
    # Those of `spoken` that belong to the prompt.
    prompt_tokens: int = 0
    is_complete: bool = False

    @classmethod
    def after(cls, prompt_ids: Sequence[int]) -> Self:
        """An answer that begins with `prompt_ids`, which belong to the prompt."""
        return cls(list(prompt_ids), prompt_tokens=len(prompt_ids))

    def add(self, token_ids: Sequence[int], *, is_last: bool) -> None:
        """Raises BadInput after the last token, and where `is_last` comes without the token that it marks."""
        if self.is_complete:
            raise BadInput("text came after the answer's last token", param="text")
        if is_last and not token_ids and len(self.spoken) > self.prompt_tokens:
            raise BadInput("is_last must come with the answer's last token", param="text.is_last")
        self.spoken.extend(token_ids[:-1] if is_last else token_ids)
        self.is_complete = is_last

    def heard_by(self, frame: int) -> int:
        """How many of the answer's own tokens the talker has been fed once it makes frame `frame` (from 0)."""
        return max(min(frame + 1, len(self.spoken)) - self.prompt_tokens, 0)

    def has(self, index: int) -> bool:
        """Whether it is known what the talker hears at `index`: a token, or that the text has ended."""
        return self.is_complete or index < len(self.spoken)


@dataclass
class SpeechState:
    """What the engine's thread keeps of a stream between steps; slot and pages are the stream's until it leaves."""

    # Most frames, those delivered before included, that the request, the model and the memory allow.
    most_frames: int
    # Rows that are taken in before the first step: the prompt but its last row, and what was delivered before.
    prefill_rows: int
    slot: int = 0
    pages: list[int] = field(default_factory=list[int])
    # Rows in the cache, once all steps that have been begun are done.
    length: int = 0
    # Prompt rows that wait to be taken in, [rows, hidden size].
    opening: Tensor | None = None
    # Frames there are, those delivered before included.
    frames: int = 0
    # Frames that steps which have been begun and not been read make beyond those.
    under_way: int = 0
    samples: int = 0
    frames_made: int = 0
    talker_s: float = 0.0
    predictor_s: float = 0.0
    codec_s: float = 0.0
    step_s: float = 0.0
    first_frame_s: float = 0.0

    @property
    def is_prefilled(self) -> bool:
        return self.length >= self.prefill_rows

    @property
    def next_frame(self) -> int:
        """The number of the frame that its next step makes."""
        return self.frames + self.under_way


@dataclass(eq=False)
class SpeechStream:
    """A request under way: feed it tokens, iterate it for speech. Made by SpeechEngine.submit, on the event loop.

    Iterating yields SpeechChunk and ends when the speech does, after which `summary` is set; it raises what made it
    fail. While `max_buffered` frames wait to be taken, the stream pauses. Several threads touch it: the engine's lock
    guards all that is private here.
    """

    request: SpeechRequest
    max_buffered: int
    text: SpokenText
    state: SpeechState
    _changed: Callable[[], contextlib.AbstractContextManager[object]]
    summary: SpeechSummary | None = None
    is_cancelled: bool = False
    first_text_s: float | None = None
    _chunks: deque[SpeechChunk] = field(default_factory=deque[SpeechChunk])
    _error: Exception | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def feed(self, token_ids: Sequence[int], *, is_last: bool) -> None:
        """The answer's next tokens; with the last one `is_last`. Raises BadInput as SpokenText.add does."""
        with self._changed():
            if self.first_text_s is None:
                self.first_text_s = time.perf_counter()
            self.text.add(token_ids, is_last=is_last)

    def cancel(self, error: Exception | None = None) -> None:
        """Ends it within one step; what is not taken by then is lost. Iterating ends, or raises `error`. Idempotent."""
        with self._changed():
            self.is_cancelled = True
            self._error = self._error or error
            self._chunks.clear()
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SpeechChunk:
        chunk = await self.next_chunk()
        if chunk is not None:
            return chunk
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def next_chunk(self) -> SpeechChunk | None:
        """The next chunk once it is there; None once the stream is over, however it ended."""
        while True:
            self._wake.clear()
            if self._chunks:
                with self._changed():
                    return self._chunks.popleft()
            if self.is_over:
                return None
            await self._wake.wait()

    # What follows is the engine's.

    @property
    def is_over(self) -> bool:
        return self.is_cancelled or self.summary is not None or self._error is not None

    @property
    def buffered_frames(self) -> int:
        return sum(len(chunk.codes) for chunk in self._chunks)

    def can_prefill(self) -> bool:
        """Whether the next rows before its first step can be taken in; those of delivered frames need their text."""
        state, delivered = self.state, len(self.request.delivered_codes)
        if state.is_prefilled or not state.slot:
            return False
        return state.length < self.request.prompt.rows - 1 or self.text.has(delivered - 1)

    def is_ready(self) -> bool:
        """Whether a step can be begun: there is text for it and room for its frame."""
        state = self.state
        if not state.is_prefilled or self.buffered_frames + state.under_way >= self.max_buffered:
            return False
        return state.next_frame < state.most_frames and self.text.has(state.next_frame)

    def ends_unspoken(self) -> End | None:
        """How it ends without a step, where it does: nothing to speak, or all of it delivered before."""
        if self.text.is_complete and not self.text.spoken:
            return talker_pb2.SPEECH_END_NO_TEXT
        if len(self.request.delivered_codes) >= self.state.most_frames and self.text.has(0):
            return talker_pb2.SPEECH_END_LENGTH
        return None

    def put(self, chunk: SpeechChunk) -> None:
        self._chunks.append(chunk)

    def finish(self, summary: SpeechSummary) -> None:
        self.summary = summary

    def fail(self, error: Exception) -> None:
        self._error = error

    @staticmethod
    def wake(streams: Iterable[SpeechStream]) -> None:
        """Tells those that iterate them to look: one call for each event loop, however many streams."""
        waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}
        for stream in streams:
            waiting.setdefault(stream._loop, []).append(stream._wake)
        for loop, events in waiting.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(_set_all, events)


def _set_all(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        event.set()
