"""The calls of the stages' workers: what a run gives and gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.derailments import Derailment
from services.common.queues.tickets import Grant
from services.gateway.turn.events import FinishReason, Speech, SpeechEnd, SpeechStarted, Text
from services.gateway.turn.intent import Sampling, SpeechOptions
from services.gateway.turn.prompt import Prepared, TensorRef
from services.gateway.turn.request import TurnRequest


@dataclass(frozen=True, slots=True)
class PrepareCall:
    grant: Grant
    request: TurnRequest
    timeout_s: float


@dataclass(frozen=True, slots=True)
class CutCall:
    """Cuts the request's only inline file into pieces of at most `piece_s` seconds. Those up to `from_sample` are not
    sent."""

    grant: Grant
    request: TurnRequest
    timeout_s: float
    piece_s: float
    from_sample: int


@dataclass(frozen=True, slots=True)
class SoundPiece:
    # 16 kHz, mono, float32 little-endian.
    samples: bytes
    # Of the whole recording, by its headers.
    recording_s: float


@dataclass(frozen=True, slots=True)
class GenerateCall:
    grant: Grant
    # Engines of the stage that failed while they worked on the turn, and that it got nothing from since.
    failed_engines: int
    request: TurnRequest
    timeout_s: float
    # Without token ids: the thinker renders the request's messages, and its first event is what Prepare would give.
    prepared: Prepared
    sampling: Sampling
    # The answer so far: the thinker goes on after it and does not repeat it.
    generated_token_ids: Sequence[int]
    wants_hidden_states: bool


@dataclass(frozen=True, slots=True)
class TextDone:
    finish_reason: FinishReason
    reasoning_tokens: int = 0
    # As of a TurnDone.
    stopped_by: str | int | None = None


# Prepared comes first, where the call had none. A TensorRef, of the prompt's hidden states, comes at most once and
# before the first text.
GenerateEvent = Prepared | TensorRef | Text | TextDone


@dataclass(frozen=True, slots=True)
class SpeakCall:
    grant: Grant
    # As of a GenerateCall.
    failed_engines: int
    request: TurnRequest
    timeout_s: float
    speech: SpeechOptions
    prepared: Prepared
    # None where the user turns hold no media.
    hidden_states: TensorRef | None
    # Row-major [frames, codebooks]: the talker goes on after them.
    delivered_codes: Sequence[int]
    # Of the first talker; None = none has begun.
    seed: int | None
    # How many times the speech had been spoken again when its last frame was made.
    spoken_again: int = 0


@dataclass(frozen=True, slots=True)
class SpokenText:
    """The answer's next tokens. None of them: the caller waits for more and is still there."""

    token_ids: Sequence[int]
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class SpeechDone:
    # None = the talker gives one that this version does not know.
    reason: SpeechEnd | None
    frames: int = 0
    # From the first text token to the first frame.
    first_frame_ms: float = 0.0
    # Means.
    talker_ms_per_frame: float = 0.0
    predictor_ms_per_frame: float = 0.0
    codec_ms_per_frame: float = 0.0
    # As of a TurnDone.
    derailment: Derailment | None = None
    spoken_again: int = 0


SpeakEvent = SpeechStarted | Speech | SpeechDone
