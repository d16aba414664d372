"""Start the talker: `python -m services.talker`, with settings from ANTIPHON_*."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from services.common.engine_watch import fail_when_hung
from services.common.errors import BadInput
from services.common.model_card import locate_checkpoint, read_model_card
from services.common.server import ServiceHost, run_main
from services.common.settings import load_settings_or_exit
from services.common.stages import TALKER
from services.common.telemetry.logs import configure_logging
from services.common.worker import slot_keeper, taking_tickets
from services.talker.settings import TalkerSettings

logger = logging.getLogger(__name__)


async def main(settings: TalkerSettings) -> None:
    # These take seconds to import: a wrong setting is reported before.
    from antiphon.v1 import talker_pb2_grpc
    from services.talker import metrics
    from services.talker.check_rules import CheckRules
    from services.talker.checkpoint import load_speech_models
    from services.talker.engine import SpeechEngine
    from services.talker.memory import DoesNotFitError, budget_bytes, plan_memory
    from services.talker.servicer import TalkerServicer
    from services.talker.warmup import warm_up
    from services.talker.weights import CheckpointError

    configure_logging(settings.log_level, settings.log_format)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(ServiceHost(settings, "antiphon.v1.Talker"))
        try:
            folder = await asyncio.to_thread(locate_checkpoint, settings.model)
            card = read_model_card(folder, settings.name, settings.model_kind, settings.max_model_len)
            models = await asyncio.to_thread(load_speech_models, folder, device=settings.device, dtype=settings.dtype)
            budget = budget_bytes(
                models,
                kv_cache_memory_bytes=settings.kv_cache_memory_bytes,
                memory_fraction=settings.memory_fraction,
            )
            memory = plan_memory(
                models,
                budget,
                slots=settings.slots,
                max_frames=settings.max_frames,
            )
        except (BadInput, CheckpointError, DoesNotFitError) as error:
            raise SystemExit(f"cannot serve {settings.model} as a talker: {error}") from None
        logger.info("weights take %.0f MB, %d streams %.0f MB", models.bytes / 1e6, memory.slots, memory.bytes / 1e6)
        engine = SpeechEngine(
            models,
            memory=memory,
            batch_invariant=settings.batch_invariant,
            max_buffered_frames=settings.max_buffered_frames,
            check=CheckRules.chosen(settings, models.config),
            on_failure=lambda reason: loop.call_soon_threadsafe(host.fail, reason),
        )
        await asyncio.to_thread(engine.warm_up)
        engine.start()
        stack.callback(engine.close)
        await warm_up(engine, models.config)
        keeper = await stack.enter_async_context(slot_keeper(settings, TALKER, host, card, engine.slots))
        servicer = TalkerServicer(engine, models.config, keeper, settings)
        stack.push_async_callback(servicer.close)
        talker_pb2_grpc.add_TalkerServicer_to_server(servicer, host.server)
        hung = fail_when_hung(host, keeper, engine, settings.hang_after_s, metrics.engine_answer_seconds.set)
        await stack.enter_async_context(taking_tickets(host, keeper, settings.hand_over_after_s, hung))
        await host.serve(started=True)


if __name__ == "__main__":
    run_main(main(load_settings_or_exit(TalkerSettings)))
