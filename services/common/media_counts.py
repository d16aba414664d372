"""How many media items one prompt may hold: one rule and one default for the gateway, preprocess and the thinker.

Preprocess and the thinker read the same settings and publish them in their model cards. The gateway checks a request
against the cards before anything is decoded or fetched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from antiphon.v1 import common_pb2, preprocess_pb2
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


def check_media_counts(
    messages: Sequence[preprocess_pb2.Message], card: common_pb2.ModelCard, *, use_audio_in_video: bool
) -> None:
    """Raise BadInput naming the first part that is one too many. A card without counts allows any number."""
    if not card.HasField("max_items"):
        return
    most = by_modality(card.max_items)
    found: Counter[str] = Counter()
    for i, message in enumerate(messages):
        for j, part in enumerate(message.parts):
            kind = part.WhichOneof("content")
            if kind not in most:
                continue
            heard = kind == "video" and use_audio_in_video and not part.video.frames
            for modality in (kind, "audio") if heard else (kind,):
                found[modality] += 1
                if found[modality] > most[modality]:
                    raise BadInput(
                        f"The conversation holds more than {most[modality]} {modality} items. "
                        f"Send at most {most[modality]}.",
                        code="too_many_media",
                        param=part.path or f"messages[{i}].content[{j}]",
                    )
