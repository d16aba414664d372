"""A prepared prompt: token ids, and the features of its media, which stay with the worker that made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Modality(Enum):
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Bytes that stay with the worker that made them."""

    # "host:port" of the gRPC service whose Fetch hands them out.
    owner: str
    # The owner's name for them.
    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A dense, row-major tensor."""

    blob: BlobRef
    # torch's name without the prefix.
    dtype: str
    shape: Sequence[int]


@dataclass(frozen=True, slots=True)
class MediaGrid:
    """The patches of an image or a video, before merging."""

    t: int
    h: int
    w: int
    # Between two temporal patches of a video; 0 for an image.
    seconds_per_grid: float


@dataclass(frozen=True, slots=True)
class Feature:
    """One media item, ready for the thinker's engine."""

    modality: Modality
    # The same media gives the same hash, whichever worker of one fingerprint prepared it.
    hash: str
    # The first prompt token of the placeholder, and how many it spans.
    offset: int
    length: int
    # Bit i (most significant first) = token i of the span takes an embedding; empty = all do.
    is_embed: bytes
    # vLLM's MultiModalKwargsItem.
    kwargs: BlobRef
    # None for audio.
    grid: MediaGrid | None


@dataclass(frozen=True, slots=True)
class PromptUsage:
    """Prompt tokens by modality."""

    text_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0
    video_tokens: int = 0

    def __add__(self, more: PromptUsage) -> PromptUsage:
        return PromptUsage(
            text_tokens=self.text_tokens + more.text_tokens,
            image_tokens=self.image_tokens + more.image_tokens,
            audio_tokens=self.audio_tokens + more.audio_tokens,
            video_tokens=self.video_tokens + more.video_tokens,
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """The whole prompt. Without token ids it is not there yet."""

    token_ids: Sequence[int] = ()
    # By modality and order of appearance within it.
    features: Sequence[Feature] = ()
    # Those of a given answer are among the text's.
    usage: PromptUsage = PromptUsage()
    # The answer, where it is given (Intent.said), with its end token.
    said_token_ids: Sequence[int] = ()
    # Of all media files, sent or fetched.
    media_bytes: int = 0
    # Features of workers with the same one have the same hash where their media is the same; "" = it is not known.
    fingerprint: str = ""
    # What decoding the media cost by its headers, in seconds of a fast core.
    decode_price_s: float = 0.0
