"""One request from messages to token ids and kept features."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from antiphon.v1 import common_pb2, preprocess_pb2
from services.common.errors import AntiphonError, ContextTooLong
from services.common.tensors.store import BlobStore
from services.preprocess import metrics
from services.preprocess.chat import ChatTemplate
from services.preprocess.features import ItemShape, MediaTokens
from services.preprocess.limits import MediaLimits
from services.preprocess.media_loader import Item, Loaded, MediaLoader, Timings, Turn
from services.preprocess.parts import MediaPart, check_conversation, media_parts
from services.preprocess.prompt import Expanded, Slot, Span, expand


@dataclass(frozen=True, slots=True)
class Feature:
    """One kept item: `key` names its bytes in the store and is its content hash."""

    modality: str
    key: str
    size_bytes: int
    span: Span
    shape: ItemShape


@dataclass(frozen=True, slots=True)
class Prepared:
    token_ids: list[int]
    features: list[Feature]
    timings: Timings


class Preparer:
    """Prepares requests. One for a process, on one event loop."""

    def __init__(
        self,
        card: common_pb2.ModelCard,
        template: ChatTemplate,
        tokens: MediaTokens,
        processor_thread: Executor,
        loader: MediaLoader,
        store: BlobStore,
        limits: MediaLimits,
    ) -> None:
        self._card = card
        self._template = template
        self._tokens = tokens
        self._processor_thread = processor_thread
        self._loader = loader
        self._store = store
        self._limits = limits

    async def prepare(self, start: preprocess_pb2.PrepareStart, inline: Mapping[int, bytes]) -> Prepared:
        """Token ids and features of a conversation; the features are held in the store for `start.context.request_id`
        until it is released. Where this fails nothing is held.

        Raises BadInput (TooLarge, ContextTooLong) naming the part, Capacity where the store is full.
        """
        turn = Turn(start.context.request_id, start.context.tenant, inline, start.use_audio_in_video)
        try:
            return await self._prepare(start, turn)
        except BaseException as error:
            self._store.release(turn.request_id)
            if isinstance(error, ExceptionGroup) and (known := _first_known(error)) is not None:
                raise known from None
            raise

    async def _prepare(self, start: preprocess_pb2.PrepareStart, turn: Turn) -> Prepared:
        parts = list(media_parts(start.messages))
        check_conversation(start.messages, parts, self._card.kind, self._limits)
        token_ids = await asyncio.get_running_loop().run_in_executor(
            self._processor_thread, self._template.token_ids, start.messages, start.tools_json
        )
        self._check_length(len(token_ids))
        async with asyncio.TaskGroup() as group:
            loading = [group.create_task(self._loader.load(part, turn), name=f"load {part.path}") for part in parts]
        loaded = [task.result() for task in loading]
        sounds = await self._loader.prepare_sounds([one.sound for one in loaded if one.sound is not None], turn)
        slots, items = _arrange(loaded, sounds)
        expanded = expand(token_ids, slots, self._tokens)
        self._check_length(len(expanded.token_ids))
        self._check_spans(parts, expanded)
        metrics.FEATURE_BYTES.set(self._store.used_bytes)
        return Prepared(expanded.token_ids, self._name_features(slots, items, expanded), turn.timings)

    def _check_length(self, tokens: int) -> None:
        most = self._card.max_model_len - 1  # room for one token of the answer
        if tokens > most:
            raise ContextTooLong(
                f"the prompt has {tokens} tokens; the model takes at most {most} and one for the answer",
                param="messages",
            )

    def _check_spans(self, parts: Sequence[MediaPart], expanded: Expanded) -> None:
        most = self._limits.item_tokens
        for part, (span, _) in zip(parts, expanded.spans, strict=True):
            if span.length > most:
                raise ContextTooLong(
                    f"the {part.modality} alone needs {span.length} tokens; at most {most} are taken", param=part.path
                )

    def _name_features(
        self, slots: Sequence[Slot], items: Sequence[tuple[Item, Item | None]], expanded: Expanded
    ) -> list[Feature]:
        """By modality, in order of appearance within it."""
        named: dict[str, list[Feature]] = {"image": [], "audio": [], "video": []}
        for slot, (item, sound), (span, sound_span) in zip(slots, items, expanded.spans, strict=True):
            named[slot.modality].append(self._feature(slot.modality, item, span))
            if sound is not None and sound_span is not None:
                named["audio"].append(self._feature("audio", sound, sound_span))
        return [feature for features in named.values() for feature in features]

    def _feature(self, modality: str, item: Item, span: Span) -> Feature:
        return Feature(modality, item.key, len(self._store.get(item.key)), span, item.shape)


def _arrange(loaded: Sequence[Loaded], sounds: Sequence[Item]) -> tuple[list[Slot], list[tuple[Item, Item | None]]]:
    """The prompt's slots and their items, in order of appearance."""
    remaining = iter(sounds)
    slots: list[Slot] = []
    items: list[tuple[Item, Item | None]] = []
    for one in loaded:
        sound = next(remaining) if one.sound is not None else None
        if one.picture is None:
            assert sound is not None  # noqa: S101  # an audio part
            slots.append(Slot("audio", sound.shape))
            items.append((sound, None))
        else:
            slots.append(Slot(one.part.modality, one.picture.shape, sound.shape if sound else None))
            items.append((one.picture, sound))
    return slots, items


def _first_known(group: ExceptionGroup[Exception]) -> AntiphonError | None:
    for error in group.exceptions:
        if isinstance(error, AntiphonError):
            return error
        if isinstance(error, ExceptionGroup) and (known := _first_known(error)) is not None:
            return known
    return None
