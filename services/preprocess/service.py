"""Builds the preprocess stage: decoders, fetcher, processor, cache, preparer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from antiphon.v1 import common_pb2
from services.common.model_card import locate_checkpoint, read_model_card
from services.common.tensors.store import BlobStore
from services.preprocess.cache import UrlMemory
from services.preprocess.chat import ChatTemplate
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.features import FeatureExtractor, MediaTokens
from services.preprocess.fetching.fetcher import Fetcher
from services.preprocess.media_loader import MediaLoader
from services.preprocess.preparer import Preparer
from services.preprocess.settings import PreprocessSettings
from services.preprocess.sources import Sources


@dataclass(frozen=True)
class Preprocess:
    card: common_pb2.ModelCard
    preparer: Preparer
    tokens: MediaTokens
    # Features by content hash.
    store: BlobStore


@asynccontextmanager
async def running_preprocess(settings: PreprocessSettings) -> AsyncGenerator[Preprocess]:
    """Load the processor and run the decoders while the block runs.

    Raise BadInput where `settings.model` is not a Qwen3-Omni checkpoint.
    """
    model_dir = await asyncio.to_thread(locate_checkpoint, settings.model)
    card = await asyncio.to_thread(
        read_model_card, model_dir, settings.name, settings.model_kind, settings.max_model_len
    )
    card.max_items.CopyFrom(settings.max_items)
    limits = settings.limits
    async with AsyncExitStack() as stack:
        decoders = await stack.enter_async_context(
            DecodePool(
                settings.decoders, memory_bytes=settings.decode_memory_bytes, timeout_s=settings.decode_timeout_s
            )
        )
        fetcher = await stack.enter_async_context(Fetcher(settings.fetch_policy))
        # One thread: neither tokenizers nor processors are documented as thread-safe.
        processor_thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="processor"))
        loading = asyncio.get_running_loop().run_in_executor(
            processor_thread, FeatureExtractor, model_dir, settings.dtype
        )
        extractor, _ = await asyncio.gather(loading, decoders.start())
        template = ChatTemplate(extractor.processor.tokenizer, extractor.processor.chat_template, card.max_model_len)
        store = BlobStore(settings.feature_bytes, hold_s=settings.feature_hold_s)
        loader = MediaLoader(
            extractor,
            processor_thread,
            Sources(fetcher, UrlMemory(settings.url_memory_s), limits, settings.media_folder),
            decoders,
            store,
            limits,
            sounds_bytes=settings.sound_bytes,
            decode_cpu_s=settings.decode_cpu_s,
        )
        preparer = Preparer(card, template, extractor.tokens, processor_thread, loader, store, limits)
        yield Preprocess(card, preparer, extractor.tokens, store)
