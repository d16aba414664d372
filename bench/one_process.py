"""The same engines without the services: no gRPC, no Redis, no queue. One event loop calls them in turn.

vLLM's engine core is a separate process here, too, as AsyncLLM always runs it in one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from antiphon.v1 import common_pb2, gateway_pb2, preprocess_pb2, thinker_pb2
from bench.timeline import Timeline
from services.common.tensors.codec import tensor_from_bytes
from services.preprocess.memory import FILE_COPIES
from services.preprocess.messages import response_of
from services.preprocess.preparer import Prepared
from services.preprocess.service import Preprocess, running_preprocess
from services.preprocess.settings import PreprocessSettings
from services.talker.checkpoint import load_speech_models
from services.talker.conditioning import read_prompt
from services.talker.engine import SpeechEngine
from services.talker.sampling import SamplingParams
from services.talker.stream import SpeechRequest, SpeechStream
from services.talker.warmup import warm_up
from services.thinker.service import Thinker, running_thinker
from services.thinker.settings import ThinkerSettings
from tests.parity.ask import requests_of
from tests.parity.cases import Case

NO_REDIS = "redis://127.0.0.1:1"  # a required setting; nothing here connects


@dataclass
class OneProcess:
    """All engines after their warm-up. `ask` answers one case."""

    preprocess: Preprocess
    thinker: Thinker
    talker: SpeechEngine
    speech_config: Any
    model: str
    _ids: itertools.count[int]

    async def _prepare(self, start: preprocess_pb2.PrepareStart, inline: dict[int, bytes]) -> Prepared:
        async with self.preprocess.preparer.files_of(start) as files:
            await files.grow(FILE_COPIES * sum(map(len, inline.values())))
            return await self.preprocess.preparer.prepare(start, inline, files)

    async def ask(self, case: Case) -> Timeline:
        timeline = Timeline()
        start, inline = await _read(requests_of(self.model, case))
        context = common_pb2.RequestContext(request_id=f"bench-{next(self._ids)}", tenant="bench")
        prepared = response_of(
            await self._prepare(
                preprocess_pb2.PrepareStart(
                    context=context,
                    model=self.model,
                    messages=start.messages,
                    use_audio_in_video=start.use_audio_in_video,
                ),
                inline,
            ),
            self.preprocess.tokens,
            self.preprocess.fingerprint,
            "here",
        )
        request = thinker_pb2.GenerateRequest(
            context=context,
            model=self.model,
            prompt_token_ids=prepared.prompt_token_ids,
            features=prepared.features,
            sampling=start.sampling,
            wants_hidden_states=True,
        )
        hidden_states_ref: common_pb2.TensorRef | None = None
        speaking: asyncio.Task[None] | None = None
        stream: SpeechStream | None = None
        async with aclosing(self.thinker.generator.run(request)) as events:
            async for event in events:
                if event.HasField("hidden_states"):
                    hidden_states_ref = event.hidden_states.hidden_states
                if not event.HasField("text"):
                    continue
                timeline.add(tokens=len(event.text.token_ids))
                if stream is None:
                    stream = self.talker.submit(self._speech(start, prepared, hidden_states_ref))
                    speaking = asyncio.create_task(_listen(stream, timeline), name="speech")
                stream.feed(event.text.token_ids, is_last=event.text.is_last)
        if speaking is not None:
            await speaking
        self.preprocess.store.release(context.request_id)
        self.thinker.hidden_states.release(context.request_id)
        return timeline

    def _speech(
        self,
        start: gateway_pb2.ConverseStart,
        prepared: preprocess_pb2.PrepareResponse,
        ref: common_pb2.TensorRef | None,
    ) -> SpeechRequest:
        hidden_states = None
        if ref is not None:
            hidden_states = tensor_from_bytes(self.thinker.hidden_states.get(ref.blob.key), ref.dtype, tuple(ref.shape))
        prompt = read_prompt(
            self.speech_config,
            prepared.prompt_token_ids,
            image_grids=[f.grid for f in prepared.features if f.modality == common_pb2.MODALITY_IMAGE],
            video_grids=[f.grid for f in prepared.features if f.modality == common_pb2.MODALITY_VIDEO],
            hidden_states=hidden_states,
            voice=start.voice,
        )
        sampling = SamplingParams(do_sample=start.talker.do_sample, seed=start.talker.seed)
        nothing = torch.zeros(0, self.speech_config.codebooks, dtype=torch.int64)
        return SpeechRequest(prompt, sampling, start.max_frames, nothing)


@asynccontextmanager
async def one_process(model_dir: Path) -> AsyncGenerator[OneProcess]:
    """Run the engines on `model_dir`, with the local stack's settings."""
    shared: dict[str, Any] = {"model": str(model_dir), "redis_url": NO_REDIS}
    async with AsyncExitStack() as stack:
        preprocess = await stack.enter_async_context(running_preprocess(PreprocessSettings(**shared)))

        async def pull(ref: common_pb2.BlobRef) -> bytes:
            return preprocess.store.get(ref.key)

        thinker = await stack.enter_async_context(running_thinker(ThinkerSettings(**shared), pull, "here"))
        models = await asyncio.to_thread(load_speech_models, model_dir, device="cpu", dtype="auto")
        talker = SpeechEngine(models)
        talker.start()
        stack.callback(talker.close)
        await warm_up(talker, models.config)
        yield OneProcess(preprocess, thinker, talker, models.config, model_dir.name, itertools.count())


async def _read(requests: Any) -> tuple[gateway_pb2.ConverseStart, dict[int, bytes]]:
    start, files = gateway_pb2.ConverseStart(), list[bytearray]()
    async for request in requests:
        if request.HasField("start"):
            start = request.start
            files = [bytearray() for _ in range(start.inline_count)]
        else:
            files[request.chunk.inline_index] += request.chunk.data
    return start, {index: bytes(file) for index, file in enumerate(files)}


async def _listen(stream: SpeechStream, timeline: Timeline) -> None:
    async for chunk in stream:
        _ = chunk.pcm  # as the servicer does for a client
        timeline.add(frames=len(chunk.codes))
