"""Speak: the proto on one side, the speech engine on the other."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import grpc.aio
import torch
from opentelemetry import trace
from torch import Tensor

from antiphon.v1 import talker_pb2, talker_pb2_grpc, thinker_pb2_grpc
from services.common.channels import ChannelPool
from services.common.deadlines import by_this_clock
from services.common.errors import HIDDEN_STATES_GONE, AntiphonError, BadInput, Gone, NotFound, TimedOut, WorkerLost
from services.common.model_card import SAMPLE_RATE
from services.common.quarantine import Quarantine
from services.common.telemetry.logs import set_request_id
from services.common.tensors.codec import tensor_from_bytes
from services.common.tensors.transfer import fetch_blob
from services.talker.checkpoint import SpeechConfig
from services.talker.conditioning import read_prompt
from services.talker.engine import SpeechEngine
from services.talker.pacing import Pacer, paced
from services.talker.sampling import SamplingParams
from services.talker.settings import TalkerSettings
from services.talker.stream import SpeechChunk, SpeechRequest, SpeechStream, SpeechSummary

_Requests = AsyncIterator[talker_pb2.SpeakRequest]
# The longest time from opening a call to its first message.
_START_TIMEOUT_S = 10.0


class Slots(Protocol):
    """The part of SlotKeeper that a call needs."""

    def open(self, lease_id: str) -> AbstractContextManager[Any]:
        """Use a granted lease until the block ends. Raises Gone if it is unknown, expired or used."""
        ...


class TalkerServicer(talker_pb2_grpc.TalkerServicer):
    """Answers Speak for one checkpoint.

    A caller should send no text before SpeakStarted: if a write meets a refused call, grpc's client replaces the
    refusal by an INTERNAL status of its own.
    """

    def __init__(self, engine: SpeechEngine, config: SpeechConfig, slots: Slots, settings: TalkerSettings) -> None:
        self._engine = engine
        self._config = config
        self._slots = slots
        self._settings = settings
        self._thinkers = ChannelPool()
        self._quarantine = Quarantine(2 * settings.hang_after_s)

    async def close(self) -> None:
        """Close the channels to the thinkers."""
        await self._thinkers.close()

    async def Speak(
        self,
        request_iterator: _Requests,
        context: grpc.aio.ServicerContext[talker_pb2.SpeakRequest, talker_pb2.SpeakResponse],
    ) -> AsyncIterator[talker_pb2.SpeakResponse]:
        requests = aiter(request_iterator)
        start = await _read_start(requests)
        set_request_id(start.context.request_id)
        by_this_clock(start.context, context)
        # If the call ends while this generator waits in `yield`, only the garbage collector closes it. So the call's
        # own end releases what must not wait for that; closing twice does nothing.
        with contextlib.ExitStack() as reading, contextlib.ExitStack() as slot:
            context.add_done_callback(cast(Any, lambda _: (slot.close(), reading.close())))
            slot.enter_context(self._slots.open(start.lease.lease_id))
            deadline = _deadline(start.context.deadline_unix_ms)
            async with _until(deadline):
                request = await self._read_request(start)
                inside = await self._quarantine.enter(start.context.failed_engines)
            slot.push(inside)
            stream = self._engine.submit(request)
            slot.callback(stream.cancel)
            reader = asyncio.create_task(self._feed(requests, stream), name=f"text-{start.context.request_id}")
            reading.callback(reader.cancel)
            yield talker_pb2.SpeakResponse(
                started=talker_pb2.SpeakStarted(
                    sample_rate=SAMPLE_RATE,
                    samples_per_frame=self._config.samples_per_frame,
                    codebooks=self._config.codebooks,
                    seed=request.sampling.seed,
                )
            )
            async with contextlib.aclosing(paced(stream, Pacer(self._settings.latency_ms / 1000))) as chunks:
                while True:
                    async with _until(deadline):
                        chunk = await anext(chunks, None)
                    inside.close()
                    if chunk is None:
                        break
                    yield talker_pb2.SpeakResponse(speech=_speech(chunk))
            if stream.summary is not None:
                _describe(stream.summary)
                yield talker_pb2.SpeakResponse(done=_done(stream.summary))
            # Speech may end before its text. If a write meets an ended call, grpc's client drops responses that it has
            # not read yet: so the call stays open until the text ends, without its slot.
            slot.close()
            await asyncio.wait([reader])

    async def _read_request(self, start: talker_pb2.SpeakStart) -> SpeechRequest:
        if start.model not in ("", self._settings.name):
            raise NotFound(
                f"This talker serves {self._settings.name}, not {start.model}.", code="model_not_found", param="model"
            )
        if start.HasField("max_frames") and start.max_frames < 1:
            raise BadInput("max_frames must be 1 or more.", param="max_frames")
        most = self._settings.max_frames
        prompt = read_prompt(
            self._config,
            start.prompt_token_ids,
            image_grids=start.image_grids,
            video_grids=start.video_grids,
            hidden_states=await self._pull_hidden_states(start),
            voice=start.voice,
        )
        return SpeechRequest(
            prompt=prompt,
            sampling=_sampling(start.sampling),
            max_frames=min(start.max_frames, most) if start.HasField("max_frames") else most,
            delivered_codes=self._delivered(start),
            spoken_again=start.spoken_again,
        )

    def _delivered(self, start: talker_pb2.SpeakStart) -> Tensor:
        codes = torch.tensor(list(start.delivered_codes), dtype=torch.int64)
        if len(codes) % self._config.codebooks:
            raise BadInput(
                f"delivered_codes must hold {self._config.codebooks} codes for each frame; it holds {len(codes)}.",
                param="delivered_codes",
            )
        return codes.view(-1, self._config.codebooks)

    async def _pull_hidden_states(self, start: talker_pb2.SpeakStart) -> Tensor | None:
        if not start.HasField("hidden_states"):
            return None
        ref = start.hidden_states
        if not ref.blob.owner:
            raise BadInput("hidden_states must name the worker that holds it in blob.owner.", param="hidden_states")
        stub = self._thinkers.stub(ref.blob.owner, thinker_pb2_grpc.ThinkerStub)
        try:
            data = await fetch_blob(stub, ref.blob, peer="thinker", timeout_s=self._settings.fetch_timeout_s)
        except (Gone, WorkerLost, TimedOut) as error:
            if isinstance(error, WorkerLost):
                await self._thinkers.forget(ref.blob.owner)
            raise Gone("the prompt's hidden states are no longer there", code=HIDDEN_STATES_GONE) from error
        return tensor_from_bytes(data, ref.dtype, tuple(ref.shape))

    async def _feed(self, requests: _Requests, stream: SpeechStream) -> None:
        """Feed the caller's tokens to the engine, up to the last one."""
        try:
            is_last = False
            while not is_last:
                async with asyncio.timeout(self._settings.text_timeout_s):
                    message = await anext(requests, None)
                if message is None:
                    raise BadInput("The text must end with its last token, marked by is_last.", param="text.is_last")
                if message.WhichOneof("part") != "text":
                    raise BadInput("Messages after `start` must be `text`.", param="text")
                is_last = message.text.is_last
                if message.text.token_ids or is_last:
                    stream.feed(list(message.text.token_ids), is_last=is_last)
        except TimeoutError:
            stream.cancel(TimedOut(f"No text arrived for {self._settings.text_timeout_s:g} s."))
        except AntiphonError as error:
            stream.cancel(error)


async def _read_start(requests: _Requests) -> talker_pb2.SpeakStart:
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            first = await anext(requests, None)
    except TimeoutError:
        raise TimedOut(f"The call's first message did not arrive within {_START_TIMEOUT_S:g} s.") from None
    if first is None or first.WhichOneof("part") != "start":
        raise BadInput("The first message must be `start`.", param="start")
    return first.start


@contextlib.asynccontextmanager
async def _until(deadline: float | None) -> AsyncGenerator[None]:
    """Raise TimedOut if the block takes longer than until `deadline` (the event loop's clock, s)."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise TimedOut("The request's deadline has passed.") from None


def _deadline(deadline_unix_ms: int) -> float | None:
    """Return the request's deadline by the event loop's clock; None if it has none."""
    if not deadline_unix_ms:
        return None
    return asyncio.get_running_loop().time() + deadline_unix_ms / 1000 - time.time()


def _sampling(sampling: talker_pb2.TalkerSampling) -> SamplingParams:
    given: dict[str, Any] = {field.name: value for field, value in sampling.ListFields()}
    given.setdefault("seed", secrets.randbits(62))
    return SamplingParams(**given)


def _speech(chunk: SpeechChunk) -> talker_pb2.Speech:
    return talker_pb2.Speech(
        first_frame=chunk.first_frame,
        codes=chunk.codes.reshape(-1).tolist(),
        first_sample=chunk.first_sample,
        pcm=chunk.pcm,
        text_tokens=chunk.text_tokens,
        spoken_again=chunk.spoken_again,
    )


def _done(summary: SpeechSummary) -> talker_pb2.SpeakDone:
    return talker_pb2.SpeakDone(
        reason=summary.reason,
        frames=summary.frames,
        samples=summary.samples,
        first_frame_ms=summary.first_frame_ms,
        talker_ms_per_frame=summary.talker_ms_per_frame,
        predictor_ms_per_frame=summary.predictor_ms_per_frame,
        codec_ms_per_frame=summary.codec_ms_per_frame,
        derailment=summary.derailment.wire if summary.derailment else talker_pb2.DERAILMENT_UNSPECIFIED,
        spoken_again=summary.spoken_again,
    )


def _describe(summary: SpeechSummary) -> None:
    """Set the call's figures on its span."""
    trace.get_current_span().set_attributes(
        {
            "antiphon.talker.frames": summary.frames,
            "antiphon.talker.first_frame_ms": summary.first_frame_ms,
            "antiphon.talker.talker_ms_per_frame": summary.talker_ms_per_frame,
            "antiphon.talker.predictor_ms_per_frame": summary.predictor_ms_per_frame,
            "antiphon.talker.codec_ms_per_frame": summary.codec_ms_per_frame,
            "antiphon.talker.derailment": summary.derailment or "",
            "antiphon.talker.spoken_again": summary.spoken_again,
        }
    )
