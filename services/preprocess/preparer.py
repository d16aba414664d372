"""One request, from messages to token ids and features in the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from antiphon.v1 import common_pb2, preprocess_pb2
from services.common.chat_template import ChatTemplate
from services.common.errors import ContextTooLong, forget_frames, root_cause
from services.common.memory_budget import Hold
from services.common.tensors.store import BlobStore
from services.preprocess.features import ItemShape, MediaTokens
from services.preprocess.limits import MediaLimits
from services.preprocess.media_loader import Item, Loaded, MediaLoader
from services.preprocess.memory import StageBudgets, most_file_bytes
from services.preprocess.parts import MediaPart, check_conversation, media_parts
from services.preprocess.preparation import File, Preparation, Timings
from services.preprocess.prompt import Expanded, Placeholder, Span, expand
from services.preprocess.watched_threads import WatchedThread


@dataclass(frozen=True, slots=True)
class Feature:
    """One item in the store. `key` names its bytes and is its content hash."""

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
    # Of the answer, where it is given.
    said_token_ids: list[int]
    media_bytes: int
    # Of what the request had decoded until now, also by a Prepare before that failed.
    decode_price_s: float


class Preparer:
    """Prepares requests. One for a process, on one event loop. `text_thread` runs the template's tokenizer, which
    nothing else uses."""

    def __init__(
        self,
        card: common_pb2.ModelCard,
        template: ChatTemplate,
        tokens: MediaTokens,
        text_thread: WatchedThread,
        loader: MediaLoader,
        store: BlobStore,
        limits: MediaLimits,
        budgets: StageBudgets,
    ) -> None:
        self._card = card
        self._template = template
        self._tokens = tokens
        self._text_thread = text_thread
        self._loader = loader
        self._store = store
        self._limits = limits
        self._budgets = budgets

    @asynccontextmanager
    async def files_of(self, start: preprocess_pb2.PrepareStart) -> AsyncGenerator[Hold]:
        """Hold the memory of the request's files, which come within the block and are over at its end."""
        most = self._most_file_bytes(start)
        budget, tenant = self._budgets.files, start.context.tenant
        async with budget.take(0, what="The request's media", tenant=tenant, most_bytes=most) as files:
            yield files

    def _most_file_bytes(self, start: preprocess_pb2.PrepareStart, received: Mapping[int, File] | None = None) -> int:
        return most_file_bytes(
            start.messages,
            self._limits,
            self._max_prompt_tokens,
            use_audio_in_video=start.use_audio_in_video,
            received=received,
        )

    async def prepare(
        self,
        start: preprocess_pb2.PrepareStart,
        inline: Mapping[int, File],
        files: Hold,
        free_slot: Callable[[], None] | None = None,
    ) -> Prepared:
        """Return the token ids and features of a conversation. The store holds the features for
        `start.context.request_id` until it is released; after an error it holds none. `files` comes from `files_of` and
        holds the memory of `inline`. `free_slot` is called at most once, where the media take long.

        Raise BadInput (TooLarge, ContextTooLong) naming the part, Capacity where the store is full, Unavailable where
        this machine is at fault.
        """
        preparation = Preparation(
            start.context.request_id,
            start.context.tenant,
            inline,
            files,
            start.use_audio_in_video,
            max_bytes=self._limits.request_bytes,
            max_tokens=self._max_prompt_tokens,
            free_slot=free_slot,
        )
        files.settle(self._most_file_bytes(start, inline))
        try:
            return await self._prepare(start, preparation)
        except BaseException as error:
            self._store.release(preparation.request_id)
            if isinstance(error, asyncio.CancelledError):
                forget_frames(error)  # the frame of a TaskGroup refers to it: the files would stay
            if isinstance(error, ExceptionGroup) and (known := root_cause(error)) is not None:
                raise known from None
            raise
        finally:
            self._loader.leave(preparation)

    def release(self, request_id: str) -> float:
        """Drop what is kept for a request alone. Return what decoding for it cost that no Prepared told: it was
        cancelled, or it failed."""
        self._store.release(request_id)
        return self._loader.prices.take(request_id)

    async def _prepare(self, start: preprocess_pb2.PrepareStart, preparation: Preparation) -> Prepared:
        parts = list(media_parts(start.messages))
        check_conversation(start.messages, parts, self._card, use_audio_in_video=start.use_audio_in_video)
        token_ids = await self._text_thread.run(self._template.token_ids, start.messages, start.tools_json)
        said = await self._text_thread.run(self._template.answer_ids, start.said) if start.said else []
        self._check_length(len(token_ids) + len(said))
        preparation.tokens = len(token_ids) - len(parts)  # each part's placeholder gives way to its tokens
        async with asyncio.TaskGroup() as group:
            loading = [
                group.create_task(self._loader.load(part, preparation), name=f"load {part.path}") for part in parts
            ]
        loaded = [task.result() for task in loading]
        sounds = await self._loader.prepare_sounds([one.sound for one in loaded if one.sound is not None], preparation)
        placeholders, items = _arrange(loaded, sounds)
        expanded = expand(token_ids, placeholders, self._tokens)
        self._check_length(len(expanded.token_ids) + len(said))
        self._check_spans(parts, expanded)
        features = self._name_features(placeholders, items, expanded)
        return Prepared(
            expanded.token_ids,
            features,
            preparation.timings,
            said,
            preparation.bytes_read,
            self._loader.prices.take(preparation.request_id),
        )

    def _check_length(self, tokens: int) -> None:
        if tokens > self._max_prompt_tokens:
            raise ContextTooLong(
                f"The prompt has {tokens} tokens. Send at most {self._max_prompt_tokens}.", param="messages"
            )

    @property
    def _max_prompt_tokens(self) -> int:
        return self._card.max_model_len - 1  # room for one token of the answer

    def _check_spans(self, parts: Sequence[MediaPart], expanded: Expanded) -> None:
        most = self._limits.item_tokens
        for part, (span, _) in zip(parts, expanded.spans, strict=True):
            if span.length > most:
                raise ContextTooLong(
                    f"The {part.modality} alone takes {span.length} tokens, but the model takes at most {most}. "
                    "Send a shorter or smaller one.",
                    param=part.path,
                )

    def _name_features(
        self, placeholders: Sequence[Placeholder], items: Sequence[tuple[Item, Item | None]], expanded: Expanded
    ) -> list[Feature]:
        """Return the features by modality, in order of appearance within each."""
        named: dict[str, list[Feature]] = {"image": [], "audio": [], "video": []}
        for placeholder, (item, sound), (span, sound_span) in zip(placeholders, items, expanded.spans, strict=True):
            named[placeholder.modality].append(self._feature(placeholder.modality, item, span))
            if sound is not None and sound_span is not None:
                named["audio"].append(self._feature("audio", sound, sound_span))
        return [feature for features in named.values() for feature in features]

    def _feature(self, modality: str, item: Item, span: Span) -> Feature:
        return Feature(modality, item.key, len(self._store.get(item.key)), span, item.shape)


def _arrange(
    loaded: Sequence[Loaded], sounds: Sequence[Item]
) -> tuple[list[Placeholder], list[tuple[Item, Item | None]]]:
    """Return the prompt's placeholders and their items, in order of appearance."""
    remaining = iter(sounds)
    placeholders: list[Placeholder] = []
    items: list[tuple[Item, Item | None]] = []
    for one in loaded:
        sound = next(remaining) if one.sound is not None else None
        if one.picture is None:
            assert sound is not None  # noqa: S101  # an audio part
            placeholders.append(Placeholder("audio", sound.shape))
            items.append((sound, None))
        else:
            placeholders.append(Placeholder(one.part.modality, one.picture.shape, sound.shape if sound else None))
            items.append((one.picture, sound))
    return placeholders, items
