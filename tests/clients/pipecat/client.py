"""Pipecat's services for the Realtime and the Live API, in pipelines with a scripted microphone and camera."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from conversations import KEY, LIVE_SCRIPT, LONG, MODEL, OSLO, SAMPLE_RATE, SCRIPT, URL, Microphone, heard_words, hold
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InputImageRawFrame,
    LLMRunFrame,
    OutputAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.openai.live.llm import OpenAILiveLLMService
from pipecat.services.openai.realtime.events import (
    AudioConfiguration,
    AudioInput,
    ConversationItemTruncateEvent,
    InputAudioTranscription,
    SemanticTurnDetection,
    SessionProperties,
)
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner

PIXEL = InputImageRawFrame(image=b"\xff\0\0", size=(1, 1), format="RGB")


class Loudspeaker(FrameProcessor):
    """Tells when more than a second of audio has come, and what was said with it."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: asyncio.Queue[str] = asyncio.Queue()
        self.has_played = asyncio.Event()
        self._audio_bytes = 0

    async def until(self, pattern: str) -> re.Match[str]:
        """Return what was said, without spaces."""
        text = ""
        while (match := re.search(pattern, text)) is None:
            text += (await self._texts.get()).replace(" ", "")
        return match

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSTextFrame):
            self._texts.put_nowait(frame.text)
        elif isinstance(frame, OutputAudioRawFrame):
            self._audio_bytes += len(frame.audio)
            if self._audio_bytes > 2 * SAMPLE_RATE:
                self.has_played.set()
        await self.push_frame(frame, direction)


@asynccontextmanager
async def talking(
    service: Any, context: LLMContext
) -> AsyncGenerator[tuple[PipelineWorker, Microphone, Loudspeaker], None]:
    """Run a pipeline, and end it. Raise AssertionError where it told of an error."""
    loudspeaker, microphone, aggregators = Loudspeaker(), Microphone(), LLMContextAggregatorPair(context)
    pipeline = Pipeline([aggregators.user(), service, loudspeaker, aggregators.assistant()])
    worker = PipelineWorker(pipeline, cancel_on_idle_timeout=False, enable_rtvi=False)
    errors: list[ErrorFrame] = []
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_error")
    async def on_error(_: Any, frame: ErrorFrame) -> None:
        errors.append(frame)

    @worker.event_handler("on_pipeline_started")
    async def on_start(*_: Any) -> None:
        started.set()

    async def record() -> None:
        async for pcm in microphone.frames():
            await worker.queue_frame(InputAudioRawFrame(pcm, SAMPLE_RATE, 1))

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await started.wait()
    await worker.queue_frame(LLMRunFrame())
    recording = asyncio.create_task(record())
    try:
        yield worker, microphone, loudspeaker
    finally:
        recording.cancel()
        await worker.queue_frame(EndFrame())
        await running
    assert not errors, errors


async def realtime() -> None:
    cities: list[str] = []

    async def weather(params: FunctionCallParams, city: str) -> None:
        """Say how the weather of a city is.

        Args:
            city: The city.
        """
        cities.append(city)
        await params.result_callback("Rain.")

    heard = AudioInput(transcription=InputAudioTranscription(), turn_detection=SemanticTurnDetection())
    settings = OpenAIRealtimeLLMService.Settings(
        model=MODEL,
        system_instruction=f"{SCRIPT}\n\n{OSLO}\n\nread -2",
        session_properties=SessionProperties(audio=AudioConfiguration(input=heard)),
    )
    service = OpenAIRealtimeLLMService(api_key=KEY, base_url=f"{URL.replace('http', 'ws')}/realtime", settings=settings)
    answers: asyncio.Queue[str] = asyncio.Queue()
    told: set[str] = set()

    @service.event_handler("on_conversation_item_updated")
    async def on_item(_: Any, item_id: str, item: Any) -> None:
        if item and (item.role, item.status) == ("assistant", "completed") and item_id not in told:
            told.add(item_id)
            answers.put_nowait(item.content[0].transcript)

    truncations: list[int] = []
    send = service.send_client_event

    async def note(event: Any) -> None:
        if isinstance(event, ConversationItemTruncateEvent):
            truncations.append(event.audio_end_ms)
        await send(event)

    service.send_client_event = note
    context = LLMContext([{"role": "user", "content": "say Hello."}], tools=[weather])
    async with talking(service, context) as (worker, microphone, loudspeaker):
        assert await answers.get() == "Hello."
        microphone.say()
        await loudspeaker.has_played.wait()
        microphone.say()
        words = await answers.get()
        assert words == heard_words(truncations[-1], words_before=1), (words, truncations)
        microphone.say()
        assert await answers.get() == "It rains in Oslo."
        assert cities == ["Oslo"]
        await worker.queue_frame(PIXEL)
        microphone.say()
        assert await answers.get() == "<image>"


async def live() -> None:
    """Without images, which the Live API does not take, and without a worker for what the model delegates."""
    service = OpenAILiveLLMService(
        api_key=KEY,
        base_url=f"{URL.replace('http', 'ws')}/live/sessions",
        settings=OpenAILiveLLMService.Settings(model=MODEL, system_instruction=LIVE_SCRIPT),
    )
    delegated: list[Any] = []

    @service.event_handler("on_delegation_created")
    async def on_delegation(_: Any, delegation: Any) -> None:
        delegated.append(delegation)

    async with talking(service, LLMContext()) as (_, microphone, loudspeaker):
        microphone.say()
        await loudspeaker.has_played.wait()
        microphone.say()
        cut, heard = (await loudspeaker.until(r"(w0.*)Iheard(w0.*)andnomore\.")).groups()
        assert cut.startswith(heard)
        assert len(cut) < len("".join(LONG))
        microphone.say()
        await loudspeaker.until(r"ItrainsinOslo\.")
        assert [delegation.target for delegation in delegated] == ["client"]


hold(globals())
