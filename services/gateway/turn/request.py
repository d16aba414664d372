"""What one turn asks of the stack, checked and free of any wire form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from antiphon.v1 import common_pb2, preprocess_pb2, talker_pb2, thinker_pb2


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """Speech is wanted. An empty voice is the model's default; no `max_frames` is the operator's limit."""

    voice: str
    sampling: talker_pb2.TalkerSampling
    max_frames: int | None


@dataclass(frozen=True, slots=True)
class TurnRequest:
    context: common_pb2.RequestContext
    # What metrics call the context's tenant.
    tenant_label: str
    model: str
    messages: Sequence[preprocess_pb2.Message]
    # Bytes of the media that stand in the request, by MediaSource.inline_index.
    inline: Sequence[bytes]
    use_audio_in_video: bool
    sampling: thinker_pb2.ThinkerSampling
    # None = text alone: the talker is never touched.
    speech: SpeechRequest | None
    # time.monotonic() when the request arrived.
    arrived_s: float
    # The client gives it less time than the operator does.
    is_hurried: bool = False
    # Stages whose workers have to be started for it.
    asleep: frozenset[str] = frozenset()
