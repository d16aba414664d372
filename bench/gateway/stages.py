"""Scripted workers of the three stages for load: real slots and gRPC, no model, and as little work as possible.

    python -m bench.gateway.stages <redis url> [--frames-a-message 1] [--speed 1]

The thinker answers at once with `max_tokens` tokens, a message for each. The talker sends `max_frames` frames of the
released model's size, in real time or faster, a message for each or for several. The first bytes of a message's samples
say when it was sent, by this machine's monotonic clock.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import uvloop

from antiphon.v1 import (
    common_pb2,
    preprocess_pb2,
    preprocess_pb2_grpc,
    talker_pb2,
    talker_pb2_grpc,
    thinker_pb2,
    thinker_pb2_grpc,
)
from services.common.channels import SERVER_OPTIONS
from services.common.queues import QueueName, SlotKeeper
from services.common.redis_client import connect

CARD = common_pb2.ModelCard(
    name="bench",
    kind=common_pb2.MODEL_KIND_INSTRUCT,
    max_model_len=32768,
    voices=["ethan"],
    default_voice="ethan",
    sample_rate=24_000,
    renders_messages=True,
)
FRAMES_PER_S = 12.5
SAMPLES_PER_FRAME = 1920
CODEBOOKS = 16
SENT_AT = struct.Struct("<dd")
"""In front of each frame's samples, as gateways may cut messages between frames: when the message was sent and when it
was due, seconds of the monotonic clock."""

_SLOTS = 4096
_PROMPT = list(range(1000, 1024))
_CODES = list(range(100, 100 + CODEBOOKS))


class Worker:
    """One worker of a stage. Enter it with its Redis."""

    def __init__(self, stage: str, add_to: Callable[[Any, grpc.aio.Server], None]) -> None:
        self._stage = stage
        self._add_to = add_to
        self.keeper: SlotKeeper

    async def start(self, url: str, stack: AsyncExitStack, tasks: asyncio.TaskGroup) -> None:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        self._add_to(self, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        stack.push_async_callback(server.stop, 0)
        redis = connect(url)
        stack.push_async_callback(redis.aclose)
        self.keeper = SlotKeeper(
            redis,
            QueueName(self._stage, CARD.name),
            worker_id=uuid.uuid4().hex,
            address=address,
            slots=_SLOTS,
            card=CARD,
        )
        tasks.create_task(self.keeper.run())


class Preprocess(Worker, preprocess_pb2_grpc.PreprocessServicer):
    async def Prepare(
        self, request_iterator: AsyncIterator[preprocess_pb2.PrepareRequest], context: Any
    ) -> preprocess_pb2.PrepareResponse:
        start = (await anext(aiter(request_iterator))).start
        with self.keeper.open(start.lease.lease_id):
            return preprocess_pb2.PrepareResponse(
                prompt_token_ids=_PROMPT, usage=preprocess_pb2.PromptUsage(text_tokens=len(_PROMPT))
            )

    async def Fetch(self, request: common_pb2.FetchRequest, context: Any) -> AsyncIterator[common_pb2.FetchResponse]:
        yield common_pb2.FetchResponse()

    async def Release(self, request: common_pb2.ReleaseRequest, context: Any) -> common_pb2.ReleaseResponse:
        return common_pb2.ReleaseResponse()


class Thinker(Preprocess):
    async def Generate(
        self, request: thinker_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[thinker_pb2.GenerateResponse]:
        tokens = request.sampling.max_tokens
        with self.keeper.open(request.lease.lease_id):
            if request.messages:
                yield thinker_pb2.GenerateResponse(prompt=thinker_pb2.Prompt(token_ids=_PROMPT))
            for number in range(tokens):
                text = thinker_pb2.GeneratedText(
                    token_ids=[number], content_delta=f" word{number % 10}", is_last=number == tokens - 1
                )
                yield thinker_pb2.GenerateResponse(text=text)
        done = thinker_pb2.GenerateDone(finish_reason=thinker_pb2.FINISH_REASON_LENGTH, completion_tokens=tokens)
        yield thinker_pb2.GenerateResponse(done=done)


class Talker(Worker):
    frames_a_message = 1
    speed = 1.0
    """Of its speech, times real time."""

    async def Speak(
        self, request_iterator: AsyncIterator[talker_pb2.SpeakRequest], context: Any
    ) -> AsyncIterator[talker_pb2.SpeakResponse]:
        requests = aiter(request_iterator)
        start = (await anext(requests)).start
        reading: asyncio.Task[None] | None = None
        with self.keeper.open(start.lease.lease_id):
            yield talker_pb2.SpeakResponse(
                started=talker_pb2.SpeakStarted(
                    sample_rate=CARD.sample_rate, samples_per_frame=SAMPLES_PER_FRAME, codebooks=CODEBOOKS, seed=1
                )
            )
            reading = asyncio.create_task(_read_to_the_end(requests))
            due_s = time.monotonic()
            for frame in range(0, start.max_frames, self.frames_a_message):
                frames = min(self.frames_a_message, start.max_frames - frame)
                due_s += frames / FRAMES_PER_S / self.speed
                await asyncio.sleep(due_s - time.monotonic())
                yield talker_pb2.SpeakResponse(
                    speech=talker_pb2.Speech(
                        first_frame=frame,
                        codes=_CODES * frames,
                        first_sample=frame * SAMPLES_PER_FRAME,
                        pcm=SENT_AT.pack(time.monotonic(), due_s).ljust(2 * SAMPLES_PER_FRAME, b"\0") * frames,
                    )
                )
            yield talker_pb2.SpeakResponse(
                done=talker_pb2.SpeakDone(reason=talker_pb2.SPEECH_END_STOP, frames=start.max_frames)
            )
        await reading


async def _read_to_the_end(requests: AsyncIterator[talker_pb2.SpeakRequest]) -> None:
    async for request in requests:
        if request.text.is_last:
            return


async def main(url: str, frames_a_message: int, speed: float) -> None:
    Talker.frames_a_message, Talker.speed = frames_a_message, speed
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        for worker in (
            # Nothing here cuts recordings.
            Preprocess(  # pyright: ignore[reportAbstractUsage]
                "preprocess", preprocess_pb2_grpc.add_PreprocessServicer_to_server
            ),
            Thinker(  # pyright: ignore[reportAbstractUsage]
                "thinker", thinker_pb2_grpc.add_ThinkerServicer_to_server
            ),
            Talker("talker", talker_pb2_grpc.add_TalkerServicer_to_server),
        ):
            await worker.start(url, stack, tasks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("redis_url")
    parser.add_argument("--frames-a-message", type=int, default=1)
    parser.add_argument("--speed", type=float, default=1.0)
    given = parser.parse_args()
    uvloop.run(main(given.redis_url, given.frames_a_message, given.speed))
