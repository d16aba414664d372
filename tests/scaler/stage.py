"""A stage's worker process with the services' own settings, host, slots and drain.

    python -m tests.scaler.stage

Its engine is arithmetic: Generate streams `sampling.max_tokens` numbers computed from the prompt, one at a time, so
that a caller can check a whole answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio

from antiphon.v1 import common_pb2, thinker_pb2, thinker_pb2_grpc
from services.common.queues import SlotKeeper
from services.common.server import ServiceHost, run_main
from services.common.settings import WorkerSettings, load_settings_or_exit
from services.common.telemetry.logs import configure_logging
from services.common.worker import slot_keeper, taking_tickets

PACE_S = 0.02


def whole_answer(prompt: list[int], length: int) -> Iterator[int]:
    number = sum(prompt)
    for _ in range(length):
        number = (number * 1_103_515_245 + 12_345) % 2**31
        yield number


class StageServicer(thinker_pb2_grpc.ThinkerServicer):
    def __init__(self, keeper: SlotKeeper) -> None:
        self._keeper = keeper

    async def Generate(
        self, request: thinker_pb2.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[thinker_pb2.GenerateResponse]:
        with self._keeper.open(request.lease.lease_id):
            for number in whole_answer(list(request.prompt_token_ids), request.sampling.max_tokens):
                yield thinker_pb2.GenerateResponse(text=thinker_pb2.GeneratedText(token_ids=[number]))
                await asyncio.sleep(PACE_S)
            done = thinker_pb2.GenerateDone(finish_reason=thinker_pb2.FINISH_REASON_LENGTH)
            yield thinker_pb2.GenerateResponse(done=done)


async def main(settings: WorkerSettings) -> None:
    configure_logging(settings.log_level, settings.log_format)
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(ServiceHost(settings, "antiphon.v1.Thinker"))
        card = common_pb2.ModelCard(name=settings.name, max_model_len=128)
        keeper = await stack.enter_async_context(slot_keeper(settings, "thinker", host, card))
        servicer = StageServicer(keeper)  # pyright: ignore[reportAbstractUsage]  # no other method is called
        thinker_pb2_grpc.add_ThinkerServicer_to_server(servicer, host.server)
        await stack.enter_async_context(taking_tickets(host, keeper, settings.hand_over_after_s))
        await host.serve(started=True)


if __name__ == "__main__":
    run_main(main(load_settings_or_exit(WorkerSettings)))
