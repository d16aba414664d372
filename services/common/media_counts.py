"""How many media items one prompt may hold: one rule and one default for the gateway, preprocess and the thinker.

Preprocess and the thinker read the same settings and publish them in their model cards. The gateway checks a request
against the cards before anything is decoded or fetched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from antiphon.v1 import common_pb2
from services.common.errors import BadInput
from services.common.settings import WorkerSettings

# The context's length bounds a conversation, not the number of its items: an item takes tokens by its size, and vLLM
# sizes its encoder by tokens. 512 turns that each say a few seconds fill the model's 32,768 tokens.
DEFAULT_MAX_ITEMS = 512


class MediaCountSettings(WorkerSettings):
    """What the stages read that take media."""

    max_images: int = Field(default=DEFAULT_MAX_ITEMS, ge=0, description="images a prompt")
    max_videos: int = Field(default=DEFAULT_MAX_ITEMS, ge=0, description="videos a prompt")
    max_audios: int = Field(default=DEFAULT_MAX_ITEMS, ge=0, description="audios a prompt, with those in videos")

    @property
    def max_items(self) -> common_pb2.MediaCounts:
        return common_pb2.MediaCounts(images=self.max_images, videos=self.max_videos, audios=self.max_audios)


def by_modality(counts: common_pb2.MediaCounts) -> dict[str, int]:
    return {"image": counts.images, "video": counts.videos, "audio": counts.audios}


def least(cards: Sequence[common_pb2.ModelCard]) -> common_pb2.MediaCounts | None:
    """Return the counts that every card allows; None where no card has any."""
    given = [card.max_items for card in cards if card.HasField("max_items")]
    if not given:
        return None
    return common_pb2.MediaCounts(
        images=min(counts.images for counts in given),
        videos=min(counts.videos for counts in given),
        audios=min(counts.audios for counts in given),
    )


class MediaItem(NamedTuple):
    """A media part: `path` is where the client wrote it."""

    modality: str
    path: str
    # A video file, which may have sound. Frames have none.
    has_sound: bool = False
    # Whether the video's sound is heard; None = as the conversation says.
    use_audio: bool | None = None


def check_media_counts(items: Iterable[MediaItem], most: Mapping[str, int], *, use_audio_in_video: bool) -> None:
    """Raise BadInput naming the first item that is one too many. `most`: see `by_modality`."""
    found: Counter[str] = Counter()
    for item in items:
        is_heard = item.has_sound and (use_audio_in_video if item.use_audio is None else item.use_audio)
        for modality in (item.modality, "audio") if is_heard else (item.modality,):
            found[modality] += 1
            if found[modality] > most[modality]:
                raise BadInput(
                    f"The conversation holds more than {most[modality]} {modality} items. "
                    f"Send at most {most[modality]}.",
                    code="too_many_media",
                    param=item.path,
                )
