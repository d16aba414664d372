"""Placeholders → the whole prompt: each media token grows to as many as its item has, and its span is noted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.common.errors import Fault
from services.preprocess.features import ItemShape, MediaTokens

MODALITIES = ("image", "audio", "video")


@dataclass(frozen=True, slots=True)
class Slot:
    """One media part of the prompt, in order of appearance. `sound` is the track that is heard with a video."""

    modality: str
    shape: ItemShape
    sound: ItemShape | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Where an item stands in the prompt. `is_embed` is None where each token of the span takes an embedding."""

    offset: int
    length: int
    is_embed: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Expanded:
    """The prompt, and for each slot its span and that of its sound."""

    token_ids: list[int]
    spans: list[tuple[Span, Span | None]]


def expand(token_ids: Sequence[int], slots: Sequence[Slot], tokens: MediaTokens) -> Expanded:
    """Replaces the k-th placeholder of `token_ids` by what the k-th slot needs.

    Raises Fault where the placeholders are not the slots: a chat template that drops or reorders media.
    """
    modality_of = {tokens.image: "image", tokens.audio: "audio", tokens.video: "video"}
    found = [modality_of[token] for token in token_ids if token in modality_of]
    if found != [slot.modality for slot in slots]:
        raise Fault("the model's chat template lost some of the media")
    out: list[int] = []
    spans: list[tuple[Span, Span | None]] = []
    remaining = iter(slots)
    for token in token_ids:
        if token not in modality_of:
            out.append(token)
            continue
        slot = next(remaining)
        if slot.sound is None:
            spans.append((Span(len(out), slot.shape.tokens), None))
            out.extend([token] * slot.shape.tokens)
        else:
            ids = interleave(slot.shape, slot.sound, tokens)
            spans.append(
                (
                    Span(len(out), ids.size, ids == tokens.video),
                    Span(len(out), ids.size, ids == tokens.audio),
                )
            )
            out.extend(ids.tolist())
    return Expanded(out, spans)


def interleave(video: ItemShape, sound: ItemShape, tokens: MediaTokens) -> npt.NDArray[np.int64]:
    """The tokens of a video heard with its sound: by time, the picture first where both come at once; between the
    sound's own start and end (transformers' Qwen3OmniMoeProcessor does the same on text)."""
    assert video.grid is not None  # noqa: S101  # every video has one
    t, h, w = video.grid
    per_grid = (h // tokens.merge_size) * (w // tokens.merge_size)
    picture_at = np.repeat(np.arange(t), per_grid) * video.seconds_per_grid * tokens.position_id_per_seconds
    order = np.argsort(np.concatenate((picture_at, np.arange(sound.tokens))), kind="stable")
    both = np.where(order < picture_at.size, tokens.video, tokens.audio)
    return np.concatenate(([tokens.audio_start], both, [tokens.audio_end])).astype(np.int64)


def pack_bits(mask: npt.NDArray[np.bool_] | None) -> bytes:
    """Feature.is_embed: most significant bit first; empty = all."""
    return b"" if mask is None else np.packbits(mask).tobytes()
