"""A whole preparer in the test's process: real decoders, a real fetcher for 127.0.0.1, the tiny checkpoint."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.multimodal.inputs import MultiModalKwargsItem
from vllm.v1.serial_utils import MsgpackDecoder

from antiphon.v1 import common_pb2, preprocess_pb2
from services.common.chat_template import ChatTemplate
from services.common.errors import AntiphonError
from services.common.model_card import read_model_card
from services.common.pixels import LEVEL_TABLE, values_of
from services.common.tensors.store import BlobStore
from services.preprocess import metrics
from services.preprocess.cache import UrlMemory
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.features import FeatureExtractor
from services.preprocess.fetching.addresses import FetchPolicy
from services.preprocess.fetching.fetcher import Fetcher
from services.preprocess.limits import MediaLimits
from services.preprocess.media_loader import MediaLoader, ProcessorThread
from services.preprocess.memory import FILE_COPIES, StageBudgets, divide
from services.preprocess.preparer import Prepared, Preparer
from services.preprocess.sources import Sources
from services.preprocess.waiting_room import WaitingRoom
from services.preprocess.watched_threads import WatchedThread
from tests.preprocess.web_server import WebServer

pb = preprocess_pb2
PATCH_FRAMES = 2


def decode_kwargs(data: bytes | bytearray) -> dict[str, torch.Tensor]:
    """Decode a feature's tensors as the engine does, its pixels as transformers' processor gives them."""
    decoded: Any = MsgpackDecoder(t=MultiModalKwargsItem).decode(bytearray(data))  # torch wants a writable buffer
    tensors: dict[str, torch.Tensor] = {name: element.data for name, element in decoded.items()}
    for name, repeats in (("pixel_values", PATCH_FRAMES), ("pixel_values_videos", 1)):
        if name in tensors:
            levels, table = tensors[name], tensors.pop(LEVEL_TABLE)
            tensors[name] = values_of(levels, table[None], [len(levels)], repeats, torch.float32)
    return tensors


class Conversation:
    """Builds a PrepareStart as the gateway does, with paths in its parts and inline files."""

    def __init__(self, *, use_audio_in_video: bool = False) -> None:
        self.start = pb.PrepareStart(use_audio_in_video=use_audio_in_video)
        self.inline: dict[int, bytes] = {}

    def turn(self, role: str, *parts: pb.Part | str) -> Conversation:
        message = self.start.messages.add(role=role)
        for part in parts:
            own = message.parts.add()
            own.CopyFrom(pb.Part(text=part) if isinstance(part, str) else part)
            own.path = f"messages[{len(self.start.messages) - 1}].content[{len(message.parts) - 1}]"
        return self

    def file(self, data: bytes) -> pb.MediaSource:
        self.inline[len(self.inline)] = data
        return pb.MediaSource(inline_index=len(self.inline) - 1)

    def image(self, data: bytes, **options: int) -> pb.Part:
        return pb.Part(image=pb.ImagePart(source=self.file(data), **options))

    def audio(self, data: bytes) -> pb.Part:
        return pb.Part(audio=pb.AudioPart(source=self.file(data)))

    def video(self, data: bytes, **options: Any) -> pb.Part:
        return pb.Part(video=pb.VideoPart(source=self.file(data), **options))


@dataclass
class Rig:
    """What the tests of a module share. `preparer` makes one with its own limits, store and caches."""

    model_dir: Path
    extractor: FeatureExtractor
    decoders: DecodePool
    thread: WatchedThread
    web: WebServer
    fetcher: Fetcher
    stores: dict[int, BlobStore]

    def preparer(
        self,
        limits: MediaLimits | None = None,
        *,
        folder: Path | None = None,
        max_model_len: int = 32_768,
        kind: str = "auto",
        max_items: common_pb2.MediaCounts | None = None,
        store_bytes: int = 1 << 30,
        waiting: WaitingRoom | None = None,
        budgets: StageBudgets | None = None,
    ) -> Preparer:
        limits = limits or MediaLimits()
        budgets = budgets or divide(8 << 30)
        card = read_model_card(self.model_dir, "tiny", kind, max_model_len)
        card.max_items.CopyFrom(max_items or common_pb2.MediaCounts(images=512, videos=512, audios=512))
        store = BlobStore(store_bytes)
        processor = self.extractor.processor
        loader = MediaLoader(
            ProcessorThread(self.extractor, self.thread),
            ProcessorThread(self.extractor, self.thread),
            Sources(self.fetcher, UrlMemory(60), limits, folder),
            self.decoders,
            store,
            replace(limits, item_tokens=min(limits.item_tokens, max_model_len)),
            budgets,
            sounds_bytes=64 << 20,
            decode_cpu_s=30,
            waiting=waiting,
        )
        template = ChatTemplate(processor.tokenizer, processor.chat_template, max_model_len)
        preparer = Preparer(card, template, self.extractor.tokens, self.thread, loader, store, limits, budgets)
        self.stores[id(preparer)] = store
        return preparer

    def store_of(self, preparer: Preparer) -> BlobStore:
        return self.stores[id(preparer)]

    def tensors(self, preparer: Preparer, prepared: Prepared) -> list[dict[str, torch.Tensor]]:
        return [decode_kwargs(self.store_of(preparer).get(feature.key)) for feature in prepared.features]


async def prepare(
    preparer: Preparer, conversation: Conversation, *, request_id: str = "r", tenant: str = "t"
) -> Prepared:
    conversation.start.context.CopyFrom(common_pb2.RequestContext(request_id=request_id, tenant=tenant))
    return await prepare_start(preparer, conversation)


async def prepare_start(
    preparer: Preparer, conversation: Conversation, free_slot: Callable[[], None] | None = None
) -> Prepared:
    """Prepare a conversation with the context that it has."""
    async with preparer.files_of(conversation.start) as files:
        received = sum(map(len, conversation.inline.values()))
        await files.grow(min(FILE_COPIES * received, files.most_bytes))  # the servicer refuses more
        return await preparer.prepare(conversation.start, conversation.inline, files, free_slot)


@asynccontextmanager
async def running_rig(
    model_dir: Path, extractor: FeatureExtractor, pool: DecodePool | None = None
) -> AsyncGenerator[Rig]:
    loopback = (ipaddress.ip_network("127.0.0.1/32"),)
    pool = pool or DecodePool(1, memory_bytes=2 << 30, timeout_s=30)
    async with WebServer().running() as web, pool as decoders:
        await decoders.start()
        policy = FetchPolicy(ports=(web.port,), networks=loopback, total_s=10)
        async with WatchedThread("processor") as thread, Fetcher(policy) as fetcher:
            yield Rig(model_dir, extractor, decoders, thread, web, fetcher, {})


def stage_runs(stage: str) -> float:
    """Return how often a stage ("fetch", "decode", "process") ran in this process."""
    samples = next(iter(metrics.STAGE_SECONDS.labels(stage).collect())).samples
    return next(sample.value for sample in samples if sample.name.endswith("_count"))


async def refused(preparer: Preparer, talk: Conversation) -> AntiphonError:
    """Return the error that `prepare` must raise."""
    with pytest.raises(AntiphonError) as caught:
        await prepare(preparer, talk)
    return caught.value
