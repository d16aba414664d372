"""Starts the preprocess service: `python -m services.preprocess`, settings from ANTIPHON_*."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from services.common.errors import BadInput
from services.common.server import ServiceHost, configure_logging, run_main
from services.common.settings import load_settings_or_exit
from services.common.stages import PREPROCESS
from services.common.tensors.store import BlobStore
from services.common.worker import slot_keeper, taking_tickets
from services.preprocess.settings import PreprocessSettings

HOUSEKEEPING_S = 30.0


async def main(settings: PreprocessSettings) -> None:
    # Here, so that a wrong setting is told before the seconds that these take.
    from antiphon.v1 import preprocess_pb2_grpc
    from services.preprocess.service import running_preprocess
    from services.preprocess.servicer import PreprocessServicer

    configure_logging(settings)
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(ServiceHost(settings, "antiphon.v1.Preprocess"))
        try:
            preprocess = await stack.enter_async_context(running_preprocess(settings))
        except BadInput as error:
            raise SystemExit(f"cannot prepare for {settings.model}: {error.message}") from None
        keeper = await stack.enter_async_context(slot_keeper(settings, PREPROCESS, host, preprocess.card))
        servicer = PreprocessServicer(
            preprocess.preparer,
            preprocess.store,
            keeper,
            preprocess.tokens,
            settings.limits,
            model=preprocess.card.name,
            address=host.address,
            receive_timeout_s=settings.receive_timeout_s,
        )
        preprocess_pb2_grpc.add_PreprocessServicer_to_server(servicer, host.server)
        await stack.enter_async_context(
            taking_tickets(host, keeper, settings.hand_over_after_s, keep_house(preprocess.store))
        )
        host.on_drain(lambda: keeper.unless_replaced(preprocess.store.wait_released, settings.hand_over_after_s))
        await host.serve(started=True)


async def keep_house(store: BlobStore) -> None:
    """Ends turns that nobody released, also where no new media makes room."""
    from services.preprocess import metrics

    while True:
        store.expire()
        metrics.FEATURE_BYTES.set(store.used_bytes)
        await asyncio.sleep(HOUSEKEEPING_S)


if __name__ == "__main__":
    run_main(main(load_settings_or_exit(PreprocessSettings)))
