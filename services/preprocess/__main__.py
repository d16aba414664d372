"""Starts the preprocess service: `python -m services.preprocess`, settings from ANTIPHON_*."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from services.common.engine_watch import fail_when_hung
from services.common.errors import BadInput
from services.common.malloc import give_back_free_blocks, give_back_large_blocks
from services.common.server import ServiceHost, run_main
from services.common.settings import load_settings_or_exit
from services.common.stages import PREPROCESS
from services.common.telemetry.logs import configure_logging
from services.common.tensors.store import BlobStore
from services.common.worker import slot_keeper, taking_tickets
from services.preprocess.decoding.isolation import linux
from services.preprocess.decoding.isolation.layers import IsolationMissing
from services.preprocess.settings import PreprocessSettings

HOUSEKEEPING_S = 30.0


async def main(settings: PreprocessSettings) -> None:
    # Here, so that a wrong setting is told before the seconds that these take.
    from antiphon.v1 import preprocess_pb2_grpc
    from services.preprocess import metrics
    from services.preprocess.service import running_preprocess
    from services.preprocess.servicer import PreprocessServicer

    configure_logging(settings.log_level, settings.log_format)
    give_back_large_blocks()
    linux.hide_memory()  # a decoder runs as the same user, where it gets no other
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(tasks.create_task(give_back_free_blocks(), name="free blocks").cancel)
        host = await stack.enter_async_context(ServiceHost(settings, "antiphon.v1.Preprocess"))
        try:
            preprocess = await stack.enter_async_context(running_preprocess(settings))
        except BadInput as error:
            raise SystemExit(f"cannot prepare for {settings.model}: {error.message}") from None
        except IsolationMissing as error:
            raise SystemExit(f"ANTIPHON_DECODE_ISOLATION_REQUIRED: not granted here: {error}") from None
        keeper = await stack.enter_async_context(slot_keeper(settings, PREPROCESS, host, preprocess.card))
        servicer = PreprocessServicer(
            preprocess.preparer,
            preprocess.recordings,
            preprocess.store,
            keeper,
            preprocess.tokens,
            settings.limits,
            fingerprint=preprocess.fingerprint,
            model=preprocess.card.name,
            address=host.address,
            receive_timeout_s=settings.receive_timeout_s,
        )
        host.on_scrape(lambda: show_store(preprocess.store))
        host.tell_when_ready(preprocess.isolation)
        preprocess_pb2_grpc.add_PreprocessServicer_to_server(servicer, host.server)
        hung = fail_when_hung(
            host, keeper, preprocess.threads, settings.hang_after_s, metrics.PROCESSOR_ANSWER_SECONDS.set
        )
        await stack.enter_async_context(
            taking_tickets(
                *(host, keeper, settings.hand_over_after_s, keep_house(preprocess.store), hung),
                wait_released=preprocess.store.wait_released,
            )
        )
        await host.serve(started=True)


async def keep_house(store: BlobStore) -> None:
    """Ends turns that nobody released, also where no new media makes room."""
    while True:
        store.expire()
        await asyncio.sleep(HOUSEKEEPING_S)


async def show_store(store: BlobStore) -> None:
    from services.preprocess import metrics

    metrics.FEATURE_BYTES.set(store.used_bytes)
    metrics.HELD_REQUESTS.set(store.held_requests)


if __name__ == "__main__":
    run_main(main(load_settings_or_exit(PreprocessSettings)))
