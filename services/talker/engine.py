"""The speech engine: one thread, off the event loop, that steps all streams of a process together.

A step makes one frame, with its samples, for each stream that has its text and room for the frame. Streams join and
leave between steps. A stream that waits for text or for a slow client costs nothing. Prompts are prefilled in chunks of
bounded size, so that they do not hold up the frames of other streams.

On a GPU the next step is launched before the last one is read, so that the device never waits for the host. The end of
a stream is then known one step late, and the frame of that step is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from antiphon.v1 import talker_pb2
from services.common.derailments import Derailment
from services.common.errors import ENGINE_FAILED, MOVED, BadInput, ContextTooLong, Unavailable, WorkerLost
from services.common.model_card import SAMPLE_RATE
from services.talker import metrics
from services.talker.check_rules import CheckRules
from services.talker.checkpoint import SpeechModels
from services.talker.derailment import SpeechCheck
from services.talker.kv_cache import BLOCK_SIZE, blocks_for
from services.talker.memory import MemoryPlan, budget_bytes, plan_memory
from services.talker.prefill import MAX_PREFILL_TOKENS, Prefiller
from services.talker.scheduler import Schedule, Scheduler
from services.talker.speaker import Speaker
from services.talker.step import InFlightStep, StepFrames, StepInput
from services.talker.stream import End, SpeechChunk, SpeechRequest, SpeechState, SpeechStream, SpeechSummary, SpokenText

logger = logging.getLogger(__name__)


class SpeechEngine:
    """Speaks for many requests at once.

        engine = SpeechEngine(models)
        engine.start()
        stream = engine.submit(request)     # on the event loop
        stream.feed([5, 6], is_last=False)
        async for chunk in stream: ...

    memory: how many streams run at once, by default as many as fit. More may be submitted: they wait in order, see
    Scheduler. batch_invariant: see Speaker. max_buffered_frames: how far a stream runs ahead of its client.
    steps_ahead: how many steps are launched before the one before them is read; by default one if a GPU replays them,
    and none if Python launches each operation. check: whether speech follows its text, and what to do where it does
    not; None = nobody looks. on_failure is called, from the engine's thread, if the models fail: all
    streams then raise WorkerLost, submit raises Unavailable, and the process should end.
    """

    def __init__(
        self,
        models: SpeechModels,
        *,
        memory: MemoryPlan | None = None,
        batch_invariant: bool = False,
        max_buffered_frames: int = 25,
        steps_ahead: int | None = None,
        check: CheckRules | None = None,
        on_failure: Callable[[str], object] | None = None,
    ) -> None:
        self.config = models.config
        self._max_buffered = max_buffered_frames
        self._steps_ahead = int(models.runs_captured) if steps_ahead is None else steps_ahead
        # Launched steps that were not read yet, with their streams and these streams' states.
        self._in_flight = deque[tuple[Sequence[tuple[SpeechStream, SpeechState]], InFlightStep]]()
        self._check = check
        self._on_failure = on_failure
        self._condition = threading.Condition()
        self._streams: list[SpeechStream] = []
        self._is_closed = False
        self._is_abandoned = False
        # Called by the thread when it comes by.
        self._questions = deque[Callable[[], object]]()
        # Set by the warm-up; what a step computes is bounded, whatever is asked.
        self.longest_step_s = 0.0
        memory = memory or plan_memory(models, budget_bytes(models))
        self.slots = memory.slots
        self.speaker = Speaker(models, memory, max_prefill_tokens=MAX_PREFILL_TOKENS if batch_invariant else 0)
        self._prefiller = Prefiller(models, self.speaker)
        self.scheduler = Scheduler(memory.slots, memory.num_blocks)
        # In a copy of this thread's context, which holds the compiler's settings.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name="speech-engine", daemon=True)
        metrics.slots.set(memory.slots)
        metrics.kv_cache_bytes.set(self.speaker.state_bytes)
        metrics.kv_blocks.set(memory.num_blocks)

    @property
    def live_streams(self) -> int:
        """Answers that are not over."""
        return len(self._streams)

    @property
    def free_slots(self) -> int:
        """Slots that no stream holds."""
        return self.scheduler.num_free_slots

    @property
    def longest_answer(self) -> int:
        """The most tokens of a prompt and its answer."""
        # The last frame is not fed back: it takes no place in the KV cache.
        return min(self.config.max_positions, self.scheduler.pool.num_blocks * BLOCK_SIZE) + 1

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread after the steps that it launched; streams that are not over raise Unavailable.

        A thread that hangs in a step is left behind after `timeout_s`, or at once if it was abandoned: the process ends
        without it.
        """
        with self._changed():
            self._is_closed = True
        self._thread.join(0 if self._is_abandoned else timeout_s)

    def submit(self, request: SpeechRequest) -> SpeechStream:
        """Queue a request and return its stream; called on the event loop, runs no model.

        Raises ContextTooLong if the prompt leaves no room for a frame, BadInput if delivered_codes are no frames,
        Unavailable once the engine is closed or has failed.
        """
        delivered = request.delivered_codes
        if delivered.numel() and not 0 <= int(delivered.min()) <= int(delivered.max()) < self.config.codebook_size:
            size = self.config.codebook_size
            raise BadInput(f"delivered_codes must be between 0 and {size - 1}", param="delivered_codes")
        longest = self.longest_answer
        needed = request.prompt.num_tokens + max(len(delivered), 1)
        if needed > longest:
            raise ContextTooLong(
                f"To be spoken, this conversation takes {needed - 1} tokens of the talker, which holds {longest - 1}. "
                "Send a shorter one, or ask for text alone.",
                param="messages",
            )
        state = SpeechState(
            max_frames=min(request.max_frames, longest - request.prompt.num_tokens),
            prefill_tokens=request.prompt.num_tokens - 1 + len(delivered),
        )
        text = SpokenText.after(request.prompt.spoken_ids)
        check = SpeechCheck(self._check.limits, delivered[:, 0].tolist()) if self._check is not None else None
        stream = SpeechStream(request, self._max_buffered, text, state, self._changed, check)
        with self._changed():
            if self._is_closed:
                raise Unavailable("this talker is stopping: go on with another", code=MOVED)
            self._streams.append(stream)
        metrics.live_streams.inc()
        return stream

    async def answer(self) -> None:
        """Return once the engine's thread has come by: it does so between two steps."""
        answered = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
                loop.call_soon_threadsafe(answered.set)

        with self._changed():
            self._questions.append(tell)
        await answered.wait()

    def abandon(self) -> None:
        """End all streams with ENGINE_FAILED, though the thread may hang in a step. The process should end."""
        self._is_abandoned = True
        self._end_streams(WorkerLost("the talker's engine hangs", code=ENGINE_FAILED, retry_after_s=1))

    def warm_up(self) -> None:
        """Compile and capture what a GPU needs for its first step; called before `start`."""
        self.speaker.warm_up()

    @contextlib.contextmanager
    def _changed(self) -> Generator[None]:
        """Hold the lock during a change, then wake the engine's thread."""
        with self._condition:
            yield
            self._condition.notify_all()

    def _run(self) -> None:
        error: Exception = Unavailable("the talker stopped", retry_after_s=1)
        try:
            with self.speaker.cuda_stream.activate(), torch.inference_mode():
                while self._advance():
                    pass  # no local variable keeps a step's tensors while the thread waits
            self._in_flight.clear()
        except Exception:
            logger.exception("the speech engine failed")
            error = WorkerLost("the talker's engine failed", code=ENGINE_FAILED, retry_after_s=1)
        self._end_streams(error)
        if isinstance(error, WorkerLost) and self._on_failure is not None:
            self._on_failure("the speech engine failed")

    def _end_streams(self, error: Exception) -> None:
        """Close the engine; make streams that are not over raise `error`."""
        with self._changed():
            self._is_closed = True
            left, self._streams = self._streams, []
            for stream in left:
                if not stream.is_over:
                    stream.fail(error)
                _count_end(stream)
            SpeechStream.wake(left)

    def _advance(self) -> bool:
        """Launch the next step once there is one, and read the steps before it. Return False once the engine is
        closed."""
        schedule = self._wait_for_work()
        if schedule is None:
            return False
        if not self._streams:
            self.speaker.parts.trace_one()  # nobody waits for it
        self._move_blocks(schedule)
        if schedule.ready:
            self._begin(schedule.ready)
        while len(self._in_flight) > (self._steps_ahead if schedule.ready else 0):
            self._read(*self._in_flight.popleft())
        if schedule.prefilling:  # after the other streams have their frames
            self._prefiller.advance(schedule.prefilling)
        return True

    def _wait_for_work(self) -> Schedule | None:
        """Wait until there is something to run or to read. Return None once the engine is closed."""
        with self._condition:
            while not self._is_closed:
                while self._questions:
                    self._questions.popleft()()
                self._release_finished()
                schedule = self.scheduler.schedule(self._streams)
                if schedule.prefilling or schedule.ready or self._in_flight:
                    return schedule
                if not self._streams and self.speaker.parts.has_untraced:
                    return schedule
                self._condition.wait()
        return None

    def _release_finished(self) -> None:
        """End streams that need no step; free the slots and blocks of those that are over."""
        for stream in self._streams:
            if not stream.is_over and (end := stream.ends_unspoken()) is not None:
                stream.finish(self._summary(stream, end))
                SpeechStream.wake([stream])
            if stream.is_over:
                _count_end(stream)
                self.scheduler.release(stream)
        self._streams = [stream for stream in self._streams if not stream.is_over]

    def _move_blocks(self, schedule: Schedule) -> None:
        """Carry out what the schedule says of blocks, in order: what is paused is copied before it is overwritten."""
        for stream, blocks in schedule.paused:
            used = blocks[: blocks_for(stream.state.length)]
            stream.state.offloaded = self.speaker.offload(used) if used else None
        for stream in schedule.resumed:
            self.speaker.restore(stream.state.slot, stream.state.blocks, stream.state.offloaded)
            stream.state.offloaded = None
        if schedule.grown:
            self.speaker.grow(schedule.grown)
        for stream in schedule.started:
            self.speaker.open(stream.state.slot, stream.state.blocks, stream.request.drawn_with)

    def _begin(self, ready: Sequence[SpeechStream]) -> None:
        inputs = [_step_input(stream, self.config.tts_eos_id, self.config.tts_pad_id) for stream in ready]
        self._in_flight.append(([(stream, stream.state) for stream in ready], self.speaker.begin(inputs)))
        for stream in ready:
            stream.state.length += 1
            stream.state.in_flight += 1

    def _read(self, streams: Sequence[tuple[SpeechStream, SpeechState]], step: InFlightStep) -> None:
        """Give each stream its frame, unless it is over or began anew by now."""
        frames = step.frames()
        metrics.batch_streams.observe(len(streams))
        metrics.step_seconds.observe(frames.times.talker_s)
        metrics.predictor_seconds.observe(frames.times.predictor_s)
        metrics.codec_seconds.observe(frames.times.codec_s)
        with self._condition:
            for index, (stream, state) in enumerate(streams):
                if not stream.is_over and stream.state is state:
                    self._take_frame(stream, frames, index)
        SpeechStream.wake(stream for stream, _ in streams)

    def _take_frame(self, stream: SpeechStream, frames: StepFrames, index: int) -> None:
        state, codes = stream.state, frames.codes[index : index + 1]
        state.in_flight -= 1
        if codes[0, 0] == self.config.codec_eos_id:
            if stream.is_cut():
                self._derail(stream, Derailment.CUT)
            else:
                stream.release()
                stream.finish(self._summary(stream, talker_pb2.SPEECH_END_STOP))
            return
        metrics.frames_total.inc()
        state.talker_s += frames.times.talker_s
        state.predictor_s += frames.times.predictor_s
        state.codec_s += frames.times.codec_s
        state.step_s += frames.times.step_s
        why = self._add_frame(stream, codes, frames.samples[index])
        if why is not None:
            self._derail(stream, why)
        elif state.frames >= state.max_frames:
            stream.release()
            stream.finish(self._summary(stream, talker_pb2.SPEECH_END_LENGTH))

    def _derail(self, stream: SpeechStream, why: Derailment) -> None:
        """Speak again from the last good frame, or end the speech there."""
        request = stream.request
        again = self._check is not None and self._check.speaks_again(
            why, spoken_again=request.spoken_again, is_sampled=request.sampling.do_sample
        )
        metrics.derailments_total.labels(why, "again" if again else "ended").inc()
        if again:
            self.scheduler.release(stream)
            stream.speak_again()
            return
        if why is Derailment.CUT:  # what was spoken is good
            stream.release()
        stream.drop_suspects()
        stream.finish(self._summary(stream, talker_pb2.SPEECH_END_STOP, why))

    def _add_frame(
        self, stream: SpeechStream, codes: NDArray[np.int64], samples: NDArray[np.float32]
    ) -> Derailment | None:
        state = stream.state
        chunk = SpeechChunk(
            first_frame=state.frames,
            codes=codes,
            first_sample=state.samples,
            samples=samples,
            text_tokens=stream.text.tokens_fed_by(state.frames),
            spoken_again=stream.request.spoken_again,
        )
        state.frames += 1
        state.frames_made += 1
        state.samples += len(samples)
        state.samples_made += len(samples)
        if state.frames_made == 1:
            state.began_s = time.perf_counter()
        if state.frames_made == 1 and stream.first_text_s is not None:
            state.first_frame_s = state.began_s - stream.first_text_s
            metrics.first_frame_seconds.observe(state.first_frame_s)
        return stream.put(chunk)

    def _summary(self, stream: SpeechStream, reason: End, derailment: Derailment | None = None) -> SpeechSummary:
        state = stream.state
        made = max(state.frames_made, 1)
        if state.frames_made:
            speech_s = state.frames_made * self.config.samples_per_frame / SAMPLE_RATE
            metrics.real_time_factor_ratio.observe(state.step_s / speech_s)
        frames = max(state.frames, len(stream.request.delivered_codes))
        return SpeechSummary(
            reason=reason,
            frames=frames,
            samples=self.speaker.samples_after(frames),
            derailment=derailment,
            spoken_again=stream.request.spoken_again,
            first_frame_ms=state.first_frame_s * 1000,
            talker_ms_per_frame=state.talker_s * 1000 / made,
            predictor_ms_per_frame=state.predictor_s * 1000 / made,
            codec_ms_per_frame=state.codec_s * 1000 / made,
        )


def _step_input(stream: SpeechStream, eos_id: int, pad_id: int) -> StepInput:
    """Return the stream's input to the next step. After its text, the talker is fed the end token once, then pads."""
    state, spoken = stream.state, stream.text.spoken
    index = state.next_frame
    past_end = eos_id if index == len(spoken) else pad_id
    return StepInput(
        slot=state.slot,
        text_id=spoken[index] if index < len(spoken) else past_end,
        length=state.length,
        position=stream.request.prompt.last_position + index,
        frames=index,
        sampling=stream.request.drawn_with,
    )


def _count_end(stream: SpeechStream) -> None:
    """Counts a stream that leaves."""
    if stream.summary is not None:
        end = talker_pb2.SpeechEnd.Name(stream.summary.reason).removeprefix("SPEECH_END_").lower()
    else:
        end = "cancelled" if stream.is_cancelled else "failed"
    metrics.stream_ends_total.labels(end).inc()
    metrics.live_streams.dec()
