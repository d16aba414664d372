"""The request of one turn, checked and independent of its wire format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from antiphon.v1 import common_pb2, preprocess_pb2, talker_pb2, thinker_pb2


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """The wanted speech. An empty voice = the model's default; no `max_frames` = the operator's limit."""

    voice: str
    sampling: talker_pb2.TalkerSampling
    max_frames: int | None


@dataclass(frozen=True, slots=True)
class TurnRequest:
    context: common_pb2.RequestContext
    # The tenant's label in metrics.
    tenant_label: str
    model: str
    messages: Sequence[preprocess_pb2.Message]
    # Bytes of the inline media, by MediaSource.inline_index.
    inline: Sequence[bytes]
    use_audio_in_video: bool
    sampling: thinker_pb2.ThinkerSampling
    # None = text only: the talker is not used.
    speech: SpeechOptions | None
    # time.monotonic() when the request arrived.
    arrived_s: float
    # The client set a shorter deadline than the operator.
    is_hurried: bool = False
    # Stages whose workers must be started first.
    asleep: frozenset[str] = frozenset()
