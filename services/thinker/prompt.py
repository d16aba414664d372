"""The engine's prompt, made of a GenerateRequest. What is malformed is refused here, before it reaches the engine."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.inputs import EngineInput, mm_input
from vllm.multimodal.inputs import MultiModalKwargsItem, PlaceholderRange

from antiphon.v1 import common_pb2, preprocess_pb2
from services.common.errors import BadInput, ContextTooLong
from services.thinker import metrics
from services.thinker.checkpoint import Checkpoint
from services.thinker.features import FeatureCache, decode_item, most_bytes, split_windows, widen_chunks

_MODALITIES = {
    common_pb2.MODALITY_IMAGE: "image",
    common_pb2.MODALITY_AUDIO: "audio",
    common_pb2.MODALITY_VIDEO: "video",
}
# Bytes of an owner's blob; raises as services.common.tensors.transfer.fetch_blob.
Pull = Callable[[common_pb2.BlobRef], Awaitable[bytes | bytearray]]
LARGE_BYTES = 1 << 18
"""Longer items are decoded on a thread. A thread's start takes about as long as the copy of so many bytes."""


@dataclass(frozen=True)
class Limits:
    """`items` bounds the media items of each modality in a prompt; `item_tokens` the span of one."""

    items: dict[str, int]
    item_tokens: int


@dataclass(frozen=True)
class PlacedFeature:
    """A feature whose place in the prompt has been checked."""

    feature: preprocess_pb2.Feature
    modality: str
    mask: np.ndarray[Any, np.dtype[np.bool_]] | None  # of the span; None = every token takes an embedding

    @property
    def tokens(self) -> int:
        return self.feature.length if self.mask is None else int(self.mask.sum())

    @property
    def first(self) -> int:
        """Prompt position of the first embedding."""
        return self.feature.offset + (0 if self.mask is None else int(self.mask.argmax()))

    @property
    def last(self) -> int:
        length = self.feature.length
        return self.feature.offset + length - 1 - (0 if self.mask is None else int(self.mask[::-1].argmax()))


@dataclass(frozen=True)
class _Part:
    """One item for vLLM, with its place in the prompt and the hash of its content."""

    item: MultiModalKwargsItem
    place: PlaceholderRange
    hash: str


def _check_runs(placed: Sequence[PlacedFeature]) -> None:
    """An item's placeholders follow one another without a gap, and text parts it from the next one; only those of a
    video and its sound stand in one run, in any order."""
    run: list[PlacedFeature] = []
    for item in [*sorted(placed, key=lambda item: item.first), None]:
        if item is not None and run and item.first <= max(other.last for other in run) + 1:
            run.append(item)
            continue
        if run:
            span = max(other.last for other in run) - run[0].first + 1
            kinds = sorted(other.modality for other in run)
            if span != sum(other.tokens for other in run) or (len(run) > 1 and kinds != ["audio", "video"]):
                raise BadInput("a media item's placeholders are not in one run", param="features")
        run = [item] if item is not None else []


def cache_salt(tenant: str) -> str:
    """Keeps tenants' cached prefixes apart: what one has sent cannot be found out by timing another's requests."""
    return hashlib.sha256(f"antiphon tenant {tenant}".encode()).hexdigest()[:32]


def _share_hashes(hashes: dict[str, list[str]], ranges: dict[str, list[PlaceholderRange]]) -> None:
    """Put the hashes of all items of one span into the hash of each.

    A video and its sound share a span, and vLLM knows a block inside a span by the first item's hash alone. All that
    shapes the block's keys and values must be in it: how the video was sampled, how the sound was padded.
    """
    spans: dict[int, list[str]] = {}
    for modality, places in sorted(ranges.items()):
        for place, hash_ in zip(places, hashes[modality], strict=True):
            spans.setdefault(place.offset, []).append(hash_)
    for modality, places in ranges.items():
        for index, place in enumerate(places):
            if len(shared := spans[place.offset]) > 1:
                hashes[modality][index] = f"{modality}:{hashlib.sha256('|'.join(shared).encode()).hexdigest()}"


class PromptBuilder:
    def __init__(self, checkpoint: Checkpoint, limits: Limits, cache: FeatureCache, pull: Pull) -> None:
        self._checkpoint = checkpoint
        self._limits = limits
        self._cache = cache
        self._pull = pull

    def check(
        self, prompt: Sequence[int], generated: Sequence[int], features: Sequence[preprocess_pb2.Feature]
    ) -> list[PlacedFeature]:
        """The features in the order given, each where its placeholders are.

        Raises BadInput for ids outside the vocabulary and for features that do not cover exactly the prompt's media
        placeholders, ContextTooLong for a prompt that leaves no room for an answer.
        """
        if not prompt:
            raise BadInput("the prompt is empty", param="prompt_token_ids")
        for name, ids in (("prompt_token_ids", prompt), ("generated_token_ids", generated)):
            if ids and max(ids) >= self._checkpoint.vocab_size:
                raise BadInput(f"a token id is outside the vocabulary of {self._checkpoint.vocab_size}", param=name)
        longest = self._checkpoint.card.max_model_len
        if len(prompt) >= longest:
            raise ContextTooLong(
                f"this model's maximum context length is {longest} tokens, but the messages take {len(prompt)}",
                param="messages",
            )
        ids = np.asarray(prompt)
        covered = np.zeros(len(prompt), dtype=np.bool_)
        placed = [self._place(index, feature, ids, covered) for index, feature in enumerate(features)]
        for modality, token in self._checkpoint.placeholders.items():
            if bool(((ids == token) & ~covered).any()):
                raise BadInput(f"each {modality} placeholder of the prompt needs a feature", param="features")
            found = sum(item.modality == modality for item in placed)
            if found > (most := self._limits.items[modality]):
                raise BadInput(
                    f"The conversation holds {found} {modality} items. Send at most {most}.",
                    code="too_many_media",
                    param="messages",
                )
        _check_runs(placed)
        return placed

    def _place(
        self, index: int, feature: preprocess_pb2.Feature, ids: np.ndarray[Any, Any], covered: np.ndarray[Any, Any]
    ) -> PlacedFeature:
        """Checks one feature's span, and marks in `covered` the tokens that take its embeddings."""
        param = f"features[{index}]"
        modality = _MODALITIES.get(feature.modality)
        if modality is None:
            raise BadInput("a feature's modality must be image, audio or video", param=f"{param}.modality")
        start, length = feature.offset, feature.length
        if not length or start + length > len(ids):
            raise BadInput("a feature's span is not inside the prompt", param=f"{param}.offset")
        if length > self._limits.item_tokens:
            raise BadInput(
                f"one media item takes {length} tokens; at most {self._limits.item_tokens} are possible", param=param
            )
        if not feature.hash:
            raise BadInput("a feature has no hash", param=f"{param}.hash")
        mask = None
        if feature.is_embed:
            if len(feature.is_embed) != (length + 7) // 8:
                raise BadInput("a feature's is_embed does not fit its length", param=f"{param}.is_embed")
            mask = np.unpackbits(np.frombuffer(feature.is_embed, np.uint8), count=length).astype(np.bool_)
        takes = np.ones(length, np.bool_) if mask is None else mask
        span = ids[start : start + length]
        if not takes.any() or not bool((span[takes] == self._checkpoint.placeholders[modality]).all()):
            raise BadInput(f"a feature's span holds other tokens than {modality} placeholders", param=param)
        if bool(covered[start : start + length][takes].any()):
            raise BadInput("two features share a placeholder", param=param)
        covered[start : start + length] |= takes
        return PlacedFeature(feature, modality, mask)

    async def build(
        self, prompt: Sequence[int], generated: Sequence[int], placed: Sequence[PlacedFeature], tenant: str
    ) -> EngineInput:
        """Pulls the features, all at once, and puts the engine's input together: the prompt, then what has been
        generated already.

        Raises BadInput for features that do not fit their place, Gone, WorkerLost and TimedOut as the pull does.
        """
        salt = cache_salt(tenant)
        ids = [*prompt, *generated]
        if not placed:
            return {"type": "token", "prompt_token_ids": ids, "cache_salt": salt}
        try:
            async with asyncio.TaskGroup() as group:
                pulls = [
                    group.create_task(self._parts(index, item, tenant), name=f"feature-{index}")
                    for index, item in enumerate(placed)
                ]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        kwargs: dict[str, list[MultiModalKwargsItem]] = {}
        hashes: dict[str, list[str]] = {}
        ranges: dict[str, list[PlaceholderRange]] = {}
        for item, pulled in zip(placed, pulls, strict=True):
            for part in pulled.result():
                kwargs.setdefault(item.modality, []).append(part.item)
                hashes.setdefault(item.modality, []).append(f"{salt}:{part.hash}")
                ranges.setdefault(item.modality, []).append(part.place)
        widths = widen_chunks(kwargs.get("audio", ()), self._checkpoint)
        for index, width in enumerate(widths):
            if width is not None:  # embedded otherwise than alone: another content
                hashes["audio"][index] += f":{width}"
        _share_hashes(hashes, ranges)
        return mm_input(ids, kwargs, hashes, ranges, cache_salt=salt)  # type: ignore[arg-type]

    async def _parts(self, index: int, item: PlacedFeature, tenant: str) -> list[_Part]:
        ref, param = item.feature.kwargs, f"features[{index}].kwargs"
        data = self._cache.get(tenant, item.feature.hash)
        known = data is not None and len(data) == ref.size_bytes
        if data is None or not known:
            if not 0 < ref.size_bytes <= most_bytes(item.modality, item.feature.length, self._checkpoint):
                raise BadInput("a feature's size does not fit its tokens", param=param)
            data = await self._pull(ref)
        arguments = (data, item, self._checkpoint, param)
        # A film's tensors take tens of milliseconds to copy, in which answers would stand still.
        decoded = (
            await asyncio.to_thread(_decode_parts, *arguments) if len(data) > LARGE_BYTES else _decode_parts(*arguments)
        )
        if not known:
            self._cache.put(tenant, item.feature.hash, data)
            metrics.FEATURE_CACHE_BYTES.set(self._cache.used_bytes)
        return decoded


def _decode_parts(data: bytes | bytearray, item: PlacedFeature, checkpoint: Checkpoint, param: str) -> list[_Part]:
    """Return vLLM's items of a feature: the windows of a sound, or the feature as one.

    A film's sound stays one, too, for its span is the film's.
    """
    feature = item.feature
    decoded = decode_item(data, item.modality, item.tokens, checkpoint, param)
    if item.modality != "audio" or not (item.mask is None or item.mask.all()):
        is_embed = None if item.mask is None else torch.from_numpy(item.mask)
        place = PlaceholderRange(offset=feature.offset, length=feature.length, is_embed=is_embed)
        return [_Part(decoded, place, f"{feature.hash}:{feature.kwargs.size_bytes}")]
    parts: list[_Part] = []
    offset = feature.offset
    for window in split_windows(decoded, checkpoint):
        place = PlaceholderRange(offset=offset, length=window.tokens)
        parts.append(_Part(window.item, place, f"window:{window.digest}"))
        offset += window.tokens
    return parts
