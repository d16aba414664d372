"""One answer being spoken: its client's side (SpeechStream), and the engine thread's state of it (SpeechState)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from antiphon.v1 import talker_pb2
from services.common.derailments import Derailment
from services.common.errors import BadInput
from services.common.model_card import SAMPLE_RATE
from services.talker.conditioning import Prompt
from services.talker.derailment import SpeechCheck, rms_of
from services.talker.sampling import SamplingParams

End = talker_pb2.SpeechEnd.ValueType
# What speech that is spoken again adds to its seed each time, modulo the largest seed that a talker draws itself.
_NEXT_SEED, _SEEDS = 1_000_003, 1 << 62


@dataclass(frozen=True)
class SpeechRequest:
    """What to speak and how. delivered_codes: int64 [frames, codebooks], which the client already has. spoken_again:
    how many times it was spoken again by then."""

    prompt: Prompt
    sampling: SamplingParams
    max_frames: int
    delivered_codes: Tensor
    spoken_again: int = 0

    @property
    def drawn_with(self) -> SamplingParams:
        """Sampling with the seed of the next frame."""
        if not self.spoken_again:
            return self.sampling
        return replace(self.sampling, seed=(self.sampling.seed + _NEXT_SEED * self.spoken_again) % _SEEDS)


@dataclass(frozen=True)
class SpeechChunk:
    """Frames in order, each with its own samples.

    codes: int64 [frames, codebooks]; samples: float32 in ±1. first_frame and first_sample count from the start of the
    answer. text_tokens: how many of the answer's tokens the talker had been fed when it made the last frame.
    spoken_again: how many times the answer had been spoken again by then.
    """

    first_frame: int
    codes: NDArray[np.int64]
    first_sample: int
    samples: NDArray[np.float32]
    text_tokens: int
    spoken_again: int = 0

    @property
    def pcm(self) -> bytes:
        """The samples as 16-bit signed little-endian PCM, clipped and rounded to nearest; ±1 is ±32767."""
        return np.rint(np.clip(self.samples, -1, 1) * 32767).astype("<i2").tobytes()


@dataclass(frozen=True)
class SpeechSummary:
    """How an answer ended. Times are in milliseconds; means are over the frames made here, 0 where there are none.
    derailment: why it no longer followed its text at its end; None = it did, or nobody looked."""

    reason: End
    frames: int
    samples: int
    derailment: Derailment | None = None
    spoken_again: int = 0
    first_frame_ms: float = 0.0
    talker_ms_per_frame: float = 0.0
    predictor_ms_per_frame: float = 0.0
    codec_ms_per_frame: float = 0.0


@dataclass
class SpokenText:
    """The answer's tokens as they come. All of them but the last are spoken."""

    spoken: list[int]
    # Those of `spoken` that belong to the prompt.
    prompt_tokens: int = 0
    is_complete: bool = False

    @classmethod
    def after(cls, prompt_ids: Sequence[int]) -> Self:
        """Return the text of an answer that begins with `prompt_ids`, which belong to the prompt."""
        return cls(list(prompt_ids), prompt_tokens=len(prompt_ids))

    def add(self, token_ids: Sequence[int], *, is_last: bool) -> None:
        """Append tokens. Raises BadInput after the last token, and if `is_last` comes without its token."""
        if self.is_complete:
            raise BadInput("Text arrived after the answer's last token.", param="text")
        if is_last and not token_ids and len(self.spoken) > self.prompt_tokens:
            raise BadInput("is_last must come with the answer's last token.", param="text.is_last")
        self.spoken.extend(token_ids[:-1] if is_last else token_ids)
        self.is_complete = is_last

    def tokens_fed_by(self, frame: int) -> int:
        """Return how many of the answer's own tokens the talker has been fed when it makes frame `frame` (from 0)."""
        return max(min(frame + 1, len(self.spoken)) - self.prompt_tokens, 0)

    def has(self, index: int) -> bool:
        """Whether the talker's input at `index` is known: a token, or the end of the text."""
        return self.is_complete or index < len(self.spoken)


@dataclass
class SpeechState:
    """The engine thread's state of a stream; slot and blocks belong to the stream until it leaves."""

    # The most frames that the request, the model and the memory allow, delivered ones included.
    max_frames: int
    # Tokens to prefill before the first step: the prompt but its last token, and delivered frames.
    prefill_tokens: int
    slot: int = 0
    blocks: list[int] = field(default_factory=list[int])
    # Whether it holds no blocks because others needed them, and its keys and values on the host meanwhile.
    is_paused: bool = False
    offloaded: Tensor | None = None
    # How many younger streams started before it.
    times_passed: int = 0
    # Tokens in the KV cache, once all launched steps are done.
    length: int = 0
    # The prompt's embeddings while they are prefilled, [tokens, hidden size].
    prompt_embeds: Tensor | None = None
    # Frames made, delivered ones included.
    frames: int = 0
    # Frames of launched steps that were not read yet.
    in_flight: int = 0
    samples: int = 0
    frames_made: int = 0
    talker_s: float = 0.0
    predictor_s: float = 0.0
    codec_s: float = 0.0
    step_s: float = 0.0
    first_frame_s: float = 0.0
    # When the first frame was made (time.perf_counter), and the samples since then, that frame's included.
    began_s: float = 0.0
    samples_made: int = 0

    @property
    def is_starting(self) -> bool:
        """Whether its client has heard nothing yet; after a resume, nothing since."""
        return not self.frames_made + self.in_flight

    def lead_s(self, now_s: float) -> float:
        """Return the seconds of speech that a client has left which plays from the first frame on."""
        return self.samples_made / SAMPLE_RATE - (now_s - self.began_s) if self.frames_made else 0.0

    @property
    def is_prefilled(self) -> bool:
        return self.length >= self.prefill_tokens

    @property
    def next_frame(self) -> int:
        """The index of the frame that the next step makes."""
        return self.frames + self.in_flight


@dataclass(eq=False)
class SpeechStream:
    """A live request: feed it tokens, iterate it for speech. SpeechEngine.submit makes it, on the event loop.

    Iterating yields SpeechChunk and ends with the speech, after which `summary` is set; it raises the error that made
    the stream fail. While `max_buffered` frames wait for the client, the stream pauses. Several threads use it: the
    engine's lock guards all private fields.
    """

    request: SpeechRequest
    max_buffered: int
    text: SpokenText
    state: SpeechState
    _changed: Callable[[], contextlib.AbstractContextManager[object]]
    # None = nobody looks whether the speech follows its text.
    check: SpeechCheck | None = None
    summary: SpeechSummary | None = None
    is_cancelled: bool = False
    first_text_s: float | None = None
    _chunks: deque[SpeechChunk] = field(default_factory=deque[SpeechChunk])
    # Suspect frames, one a chunk, which the client does not get yet.
    _held: list[SpeechChunk] = field(default_factory=list[SpeechChunk])
    # With a check, the codes of all other frames since `request.delivered_codes`: uint16, row-major.
    _codes: bytearray = field(default_factory=bytearray)
    _error: Exception | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def feed(self, token_ids: Sequence[int], *, is_last: bool) -> None:
        """Add the answer's next tokens; set `is_last` with the last one. Raises BadInput as SpokenText.add does."""
        with self._changed():
            if self.first_text_s is None:
                self.first_text_s = time.perf_counter()
            self.text.add(token_ids, is_last=is_last)

    def cancel(self, error: Exception | None = None) -> None:
        """End the stream within one step and drop chunks that were not taken. Iterating ends, or raises `error`.
        Idempotent."""
        with self._changed():
            self.is_cancelled = True
            self._error = self._error or error
            self._chunks.clear()
            self._held.clear()
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
        """Wait for the next chunk; return None once the stream is over, however it ended."""
        while True:
            self._wake.clear()
            if self._chunks:
                with self._changed():
                    return self._chunks.popleft()
            if self.is_over:
                return None
            await self._wake.wait()

    # The rest is for the engine.

    @property
    def is_over(self) -> bool:
        return self.is_cancelled or self.summary is not None or self._error is not None

    @property
    def buffered_frames(self) -> int:
        return sum(len(chunk.codes) for chunk in self._chunks)

    def can_prefill(self) -> bool:
        """Whether the next chunk can be prefilled; delivered frames need their text."""
        state, delivered = self.state, len(self.request.delivered_codes)
        if state.is_prefilled or not state.slot:
            return False
        return state.length < self.request.prompt.num_tokens - 1 or self.text.has(delivered - 1)

    def is_ready(self) -> bool:
        """Whether a step can start: there is text for it and room for its frame."""
        state = self.state
        if not state.is_prefilled or self.buffered_frames + state.in_flight >= self.max_buffered:
            return False
        return state.next_frame < state.max_frames and self.text.has(state.next_frame)

    def ends_unspoken(self) -> End | None:
        """Return how the stream ends if it needs no step: no text, or all of it delivered before; else None."""
        if self.text.is_complete and not self.text.spoken:
            return talker_pb2.SPEECH_END_NO_TEXT
        if len(self.request.delivered_codes) >= self.state.max_frames and self.text.has(0):
            return talker_pb2.SPEECH_END_LENGTH
        return None

    def put(self, chunk: SpeechChunk) -> Derailment | None:
        """Add a frame, which waits while the speech is suspect. Return why the speech has derailed; None = it has
        not."""
        if self.check is None:
            self._chunks.append(chunk)
            return None
        self._held.append(chunk)
        why = self.check.add(
            int(chunk.codes[0, 0]),
            rms_of(chunk.samples),
            text_tokens=len(self.text.spoken),
            text_ended=self.text.is_complete,
        )
        if why is None and self.check.good == self.check.frames:
            self.release()
        return why

    def is_cut(self) -> bool:
        """Whether the talker, which has ended, was not fed enough of its text."""
        return self.check is not None and self.check.end(text_tokens=len(self.text.spoken)) is not None

    def release(self) -> None:
        """Let the client have the suspect frames."""
        for chunk in self._held:
            self._codes += chunk.codes.astype(np.uint16).tobytes()
        self._chunks.extend(self._held)
        self._held.clear()

    def drop_suspects(self) -> None:
        """Go back to the last frame that the client may have."""
        self.state.frames -= len(self._held)
        dropped = sum(len(chunk.samples) for chunk in self._held)
        self.state.samples -= dropped
        self.state.samples_made -= dropped
        self._held.clear()

    def speak_again(self) -> None:
        """Begin anew after the last frame that the client may have, with the next seed, as on another worker. The
        stream must hold no slot. Steps in flight belong to the old state."""
        self.drop_suspects()
        if self.check is not None:
            self.check.go_back()
        delivered = self.request.delivered_codes
        made = np.frombuffer(self._codes, np.uint16).reshape(-1, delivered.shape[1]).astype(np.int64)
        self.request = replace(
            self.request,
            delivered_codes=torch.cat((delivered, torch.from_numpy(made))),
            spoken_again=self.request.spoken_again + 1,
        )
        self._codes = bytearray()
        tokens = self.request.prompt.num_tokens - 1 + len(self.request.delivered_codes)
        self.state = replace(self.state, prefill_tokens=tokens, length=0, frames=0, in_flight=0, samples=0)

    def finish(self, summary: SpeechSummary) -> None:
        self.summary = summary

    def fail(self, error: Exception) -> None:
        self._error = error

    @staticmethod
    def wake(streams: Iterable[SpeechStream]) -> None:
        """Wake the tasks that iterate these streams: one call for each event loop, however many streams."""
        events_of: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}
        for stream in streams:
            events_of.setdefault(stream._loop, []).append(stream._wake)
        for loop, events in events_of.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_set_all, events)


def _set_all(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        event.set()
