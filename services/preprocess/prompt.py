"""Placeholders → the whole prompt: each media token is repeated as often as its item needs, and its span is noted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.common.errors import Fault
from services.preprocess.features import ItemShape, MediaTokens

MODALITIES = ("image", "audio", "video")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One media part of the prompt, in order of appearance. `sound` is a heard video's track."""

    modality: str
    shape: ItemShape
    sound: ItemShape | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """An item's place in the prompt. `is_embed` is None where every token of the span takes an embedding."""

    offset: int
    length: int
    is_embed: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Expanded:
    """The prompt, and for each placeholder its span and the span of its sound."""

    token_ids: list[int]
    spans: list[tuple[Span, Span | None]]


def expand(token_ids: Sequence[int], placeholders: Sequence[Placeholder], tokens: MediaTokens) -> Expanded:
    """Replace the k-th media token of `token_ids` by the tokens of the k-th placeholder.

    Raise Fault where the media tokens do not match the placeholders: the chat template drops or reorders media.
    """
    modality_of = {tokens.image: "image", tokens.audio: "audio", tokens.video: "video"}
    found = [modality_of[token] for token in token_ids if token in modality_of]
    if found != [placeholder.modality for placeholder in placeholders]:
        raise Fault("The model's chat template dropped or reordered media.")
    out: list[int] = []
    spans: list[tuple[Span, Span | None]] = []
    remaining = iter(placeholders)
    for token in token_ids:
        if token not in modality_of:
            out.append(token)
            continue
        placeholder = next(remaining)
        if placeholder.sound is None:
            spans.append((Span(len(out), placeholder.shape.tokens), None))
            out.extend([token] * placeholder.shape.tokens)
        else:
            ids = interleave(placeholder.shape, placeholder.sound, tokens)
            spans.append(
                (
                    Span(len(out), ids.size, ids == tokens.video),
                    Span(len(out), ids.size, ids == tokens.audio),
                )
            )
            out.extend(ids.tolist())
    return Expanded(out, spans)


def interleave(video: ItemShape, sound: ItemShape, tokens: MediaTokens) -> npt.NDArray[np.int64]:
    """Return the tokens of a video heard with its sound: in order of time, the picture first at equal times, between
    the sound's start and end tokens. transformers' Qwen3OmniMoeProcessor does the same on text."""
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
