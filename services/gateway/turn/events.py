"""The events of a turn, in order: one TurnStarted; Texts and, for speech, one SpeechStarted and then Speech; one
TurnDone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from services.common.derailments import Derailment
from services.gateway.turn.prompt import PromptUsage


class FinishReason(Enum):
    STOP = "stop"
    """The end token or a stop string."""
    LENGTH = "length"
    """max_tokens or the model's length."""


class SpeechEnd(Enum):
    STOP = "stop"
    """The talker's own end token."""
    LENGTH = "length"
    """max_frames, or the engine's longest stream."""
    NO_TEXT = "no_text"
    """The answer held nothing to speak."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    request_id: str
    prompt_token_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Logprob:
    token_id: int
    # Natural logarithm.
    logprob: float
    # What the token stands for. A special token has its name.
    text: bytes


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log probability of a token, and those of the likeliest at its place, the likeliest first."""

    token: Logprob
    top: Sequence[Logprob] = ()


@dataclass(slots=True)  # one that is frozen takes three times as long to make
class Text:
    # New tokens, the end token included.
    token_ids: Sequence[int]
    # What they add to the text: whole characters only, so it may lag the tokens.
    content_delta: str = ""
    # The same for a chain of thought.
    reasoning_delta: str = ""
    # With the answer's last token, which the talker never speaks.
    is_last: bool = False
    # The prompt's tokens that came from the prefix cache; in the first text only.
    cached_tokens: int = 0
    # One for each token, where asked for.
    logprobs: Sequence[TokenLogprobs] = ()


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    # Hz.
    sample_rate: int
    # Samples that each frame adds once speech runs.
    samples_per_frame: int
    # Codes a frame.
    codebooks: int
    seed: int


@dataclass(slots=True)  # see Text
class Speech:
    # Index in the answer of the first frame of `codes`.
    first_frame: int
    # Row-major [frames, codebooks].
    codes: Sequence[int]
    # Index in the answer of the first sample of `pcm`.
    first_sample: int
    # Mono, 16-bit signed little-endian.
    pcm: bytes
    # How many of the answer's text tokens had been fed when the last frame here was made.
    text_tokens: int = 0
    # How many times the speech had been spoken again by then.
    spoken_again: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    prompt: PromptUsage = field(default_factory=PromptUsage)
    cached_tokens: int = 0
    completion_text_tokens: int = 0
    # Codec frames.
    completion_audio_tokens: int = 0
    # Part of completion_text_tokens.
    reasoning_tokens: int = 0

    def __add__(self, more: Usage) -> Usage:
        return Usage(
            prompt=self.prompt + more.prompt,
            cached_tokens=self.cached_tokens + more.cached_tokens,
            completion_text_tokens=self.completion_text_tokens + more.completion_text_tokens,
            completion_audio_tokens=self.completion_audio_tokens + more.completion_audio_tokens,
            reasoning_tokens=self.reasoning_tokens + more.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class TurnTimings:
    """Milliseconds from the request's arrival; 0 = did not happen."""

    prepare_ms: float = 0.0
    thinker_first_token_ms: float = 0.0
    talker_first_frame_ms: float = 0.0
    first_audio_ms: float = 0.0
    # The sum of the waits in queues.
    queue_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class TurnDone:
    finish_reason: FinishReason
    usage: Usage = Usage()
    # None without speech.
    speech_end: SpeechEnd | None = None
    timings: TurnTimings = TurnTimings()
    # The stop string or stop token of the request that ended the text.
    stopped_by: str | int | None = None
    # The name of the limit of who asked that cut the answer; "" = none did.
    limit: str = ""
    # The conversation's oldest messages that the model did not read: see Intent.drops_oldest.
    dropped_messages: int = 0
    # Why the speech no longer followed its text at its end; None = it did, or nobody looked.
    derailment: Derailment | None = None
    # How many times it was spoken again.
    spoken_again: int = 0


TurnEvent = TurnStarted | Text | SpeechStarted | Speech | TurnDone
