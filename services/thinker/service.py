"""Builds a thinker: checkpoint, engine, hidden states, generator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.common.media_counts import by_modality
from services.common.model_card import locate_checkpoint, read_model_card
from services.common.quarantine import Quarantine
from services.common.tensors.store import BlobStore
from services.thinker import metrics
from services.thinker.checkpoint import Checkpoint
from services.thinker.engine.arguments import engine_arguments
from services.thinker.engine.core_process import CoreProcess
from services.thinker.engine.engine import Engine
from services.thinker.engine.environment import on_cpu
from services.thinker.engine.warmup import warm_up
from services.thinker.features import FeatureCache
from services.thinker.generation import Generator
from services.thinker.hidden_states.receiver import HiddenStateReceiver
from services.thinker.messages import message_renderer
from services.thinker.prompt import Limits, PromptBuilder, Pull
from services.thinker.sampling import SamplingDefaults
from services.thinker.settings import ThinkerSettings
from services.thinker.structured.formats import BEGIN_CALL
from services.thinker.structured.trials import structure_trials


@dataclass(frozen=True)
class Thinker:
    checkpoint: Checkpoint
    engine: Engine
    hidden_states: BlobStore
    generator: Generator


def read_checkpoint(settings: ThinkerSettings) -> Checkpoint:
    """Read the checkpoint and its card. Raise BadInput where `settings.model` is not a Qwen3-Omni checkpoint."""
    folder = locate_checkpoint(settings.model)
    card = read_model_card(folder, settings.name, settings.model_kind, settings.max_model_len)
    card.max_items.CopyFrom(settings.max_items)
    card.renders_messages = True
    card.structures_answers = True
    checkpoint = Checkpoint(folder, card)
    if (begin_call := checkpoint.tokenizer.token_to_id(BEGIN_CALL)) is not None:
        card.tool_call_token_id = begin_call
    return checkpoint


@asynccontextmanager
async def running_thinker(
    settings: ThinkerSettings, pull: Pull, owner: str, core: CoreProcess | None = None
) -> AsyncGenerator[Thinker]:
    """Start a thinker and warm its engine up.

    `owner` is the address under which other stages fetch its hidden states; `core` is as in `Engine.start`. The
    engine's processes end with the block; `engine.died` is set when they end earlier.
    """
    checkpoint = await asyncio.to_thread(read_checkpoint, settings)
    async with AsyncExitStack() as stack:
        hidden_states = BlobStore(
            settings.hidden_states_bytes, hold_s=settings.hidden_states_hold_s, keep_released=False
        )
        receiver = HiddenStateReceiver(
            hidden_states, settings.hidden_states_bytes, checkpoint.hidden_size, settings.hidden_states_endpoint
        )
        stack.callback(receiver.close)
        arguments = engine_arguments(settings, checkpoint, on_cpu=on_cpu(), hidden_states_endpoint=receiver.endpoint)
        engine = await Engine.start(arguments, metrics.EngineStats, core)
        stack.push_async_callback(engine.close)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        for background in (
            tasks.create_task(receiver.run(), name="hidden-states"),
            tasks.create_task(engine.watch(), name="engine-watch"),
        ):
            stack.callback(background.cancel)
        await warm_up(engine, checkpoint)
        metrics.ENGINE_UP.set(1)
        limits = Limits(
            by_modality(settings.max_items),
            item_tokens=engine.max_batched_tokens,
        )
        renderer = await stack.enter_async_context(message_renderer(checkpoint))
        prompts = PromptBuilder(checkpoint, limits, FeatureCache(settings.feature_cache_bytes), pull)
        defaults = SamplingDefaults(checkpoint, settings.default_max_tokens)
        quarantine = Quarantine(2 * settings.hang_after_s)
        trials = await stack.enter_async_context(structure_trials())
        generator = Generator(checkpoint, engine, renderer, prompts, receiver, defaults, owner, quarantine, trials)
        yield Thinker(checkpoint, engine, hidden_states, generator)
