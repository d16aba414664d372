"""Builds the preprocess stage: decoders, fetcher, processor, cache, preparer."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from antiphon.v1 import common_pb2
from services.common.chat_template import ChatTemplate
from services.common.model_card import locate_checkpoint, read_model_card
from services.common.tensors.store import BlobStore
from services.preprocess import metrics
from services.preprocess.cache import UrlMemory
from services.preprocess.decoding.isolation.layers import Granted
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.features import FeatureExtractor, MediaTokens
from services.preprocess.fetching.fetcher import Fetcher
from services.preprocess.media_loader import MediaLoader, ProcessorThread
from services.preprocess.memory import divide, spare_bytes
from services.preprocess.preparer import Preparer
from services.preprocess.recordings import Recordings
from services.preprocess.settings import PreprocessSettings
from services.preprocess.sources import Sources
from services.preprocess.watched_threads import WatchedThread, WatchedThreads

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preprocess:
    card: common_pb2.ModelCard
    preparer: Preparer
    recordings: Recordings
    tokens: MediaTokens
    # Of the extractor: what its features depend on beside the media.
    fingerprint: str
    # Features by content hash.
    store: BlobStore
    threads: WatchedThreads
    decoders: DecodePool

    def isolation(self) -> dict[str, dict[str, str]]:
        """Return how decoders are isolated, for readiness: which layers are on, and why the others are not."""
        layers = self.decoders.layers
        return {
            "decoder_isolation": {layer.value: f"off: {why}" if why else "on" for layer, why in sorted(layers.items())}
        }


@asynccontextmanager
async def running_preprocess(settings: PreprocessSettings) -> AsyncGenerator[Preprocess]:
    """Load the processor and run the decoders while the block runs.

    Raise BadInput where `settings.model` is not a Qwen3-Omni checkpoint, and IsolationMissing where the kernel does not
    grant a layer of the decoders' isolation that is required.
    """
    model_dir = await asyncio.to_thread(locate_checkpoint, settings.model)
    card = await asyncio.to_thread(
        read_model_card, model_dir, settings.name, settings.model_kind, settings.max_model_len
    )
    card.max_items.CopyFrom(settings.max_items)
    limits = settings.limits
    card.input.CopyFrom(limits.published)
    budgets = divide(settings.memory_bytes or spare_bytes(settings.feature_bytes + settings.sound_bytes))
    async with AsyncExitStack() as stack:
        decoders = await stack.enter_async_context(
            DecodePool(
                settings.decoders,
                memory_bytes=settings.decode_memory_bytes,
                budgets=budgets,
                timeout_s=settings.decode_timeout_s,
                hang_after_s=settings.hang_after_s,
                required=settings.decode_isolation_required,
            )
        )
        fetcher = await stack.enter_async_context(Fetcher(settings.fetch_policy))
        # One thread each: neither tokenizers nor processors are documented as thread-safe.
        threads = [await stack.enter_async_context(WatchedThread(name)) for name in ("stills", "films", "text")]
        stills, films, text = threads
        loading = stills.run(FeatureExtractor, model_dir, settings.dtype)
        extractor, _ = await asyncio.gather(loading, decoders.start())
        show_isolation(decoders.layers)
        template = ChatTemplate(
            copy.deepcopy(extractor.processor.tokenizer), extractor.processor.chat_template, card.max_model_len
        )
        store = BlobStore(settings.feature_bytes, hold_s=settings.feature_hold_s)
        loader = MediaLoader(
            ProcessorThread(extractor, stills),
            ProcessorThread(extractor.twin(), films),
            Sources(fetcher, UrlMemory(settings.url_memory_s), limits, settings.media_folder),
            decoders,
            store,
            limits,
            budgets,
            sounds_bytes=settings.sound_bytes,
            decode_cpu_s=settings.decode_cpu_s,
        )
        preparer = Preparer(card, template, extractor.tokens, text, loader, store, limits, budgets)
        recordings = Recordings(decoders, limits, budgets, decode_cpu_s=settings.decode_cpu_s)
        watched = WatchedThreads(threads)
        yield Preprocess(card, preparer, recordings, extractor.tokens, extractor.fingerprint, store, watched, decoders)


def show_isolation(layers: Granted) -> None:
    """Say in the log and the metrics which layers are between a decoder and the rest, and why others are not."""
    for layer, why in layers.items():
        metrics.DECODER_ISOLATION.labels(layer).set(not why)
    refused = [f"{layer} ({why})" for layer, why in layers.items() if why]
    logger.log(
        logging.WARNING if refused else logging.INFO,
        "decoders are isolated by %s; not granted: %s",
        ", ".join(layer for layer, why in layers.items() if not why) or "nothing",
        ", ".join(refused) or "none",
    )
