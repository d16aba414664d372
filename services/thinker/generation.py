"""Generates one answer: from a GenerateRequest to its events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing

from vllm.inputs import EngineInput
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams

from antiphon.v1 import common_pb2, thinker_pb2
from services.common.errors import BadInput, Gone, NotFound, TimedOut, WorkerLost
from services.common.quarantine import Quarantine
from services.thinker import metrics
from services.thinker.answer import GeneratedAnswer, begins_in_thought
from services.thinker.checkpoint import Checkpoint
from services.thinker.engine.engine import Engine
from services.thinker.hidden_states.positions import media_spans_of_user_turns
from services.thinker.hidden_states.receiver import Expected, HiddenStateReceiver
from services.thinker.logprobs import token_logprobs
from services.thinker.messages import MessageRenderer
from services.thinker.prompt import PromptBuilder
from services.thinker.sampling import (
    END_OF_THOUGHT,
    STRUCTURED_TOKENS,
    SamplingDefaults,
    check_structured,
    longest_answer,
    sampling_params,
)
from services.thinker.structured.formats import structured_outputs
from services.thinker.structured.trials import StructureTrials
from services.thinker.text import END_THINK, TokenBytes

Events = AsyncGenerator[thinker_pb2.GenerateResponse]
_STOP, _LENGTH = thinker_pb2.FINISH_REASON_STOP, thinker_pb2.FINISH_REASON_LENGTH
_REASONS = {"stop": _STOP, "length": _LENGTH}


class Deadline:
    """The caller's patience: wall-clock milliseconds since the epoch; 0 = no end."""

    def __init__(self, unix_ms: int) -> None:
        left_s = unix_ms / 1000 - time.time()
        self._at_s = asyncio.get_running_loop().time() + left_s if unix_ms else None

    def __call__(self) -> asyncio.Timeout:
        return asyncio.timeout_at(self._at_s)


class Generator:
    """Answers requests with one engine; `owner` is the address under which hidden states can be fetched."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        engine: Engine,
        renderer: MessageRenderer,
        prompts: PromptBuilder,
        receiver: HiddenStateReceiver,
        defaults: SamplingDefaults,
        owner: str,
        quarantine: Quarantine,
        trials: StructureTrials,
    ) -> None:
        self._checkpoint = checkpoint
        self._engine = engine
        self._renderer = renderer
        self._prompts = prompts
        self._receiver = receiver
        self._defaults = defaults
        self._owner = owner
        self._quarantine = quarantine
        self._trials = trials
        self._ends = checkpoint.end_token_ids()
        self._thinks = checkpoint.card.kind == common_pb2.MODEL_KIND_THINKING
        self._speaks = checkpoint.card.kind == common_pb2.MODEL_KIND_INSTRUCT
        self._table = TokenBytes(checkpoint.tokenizer, thinks=self._thinks)
        self._end_think: int | None = checkpoint.tokenizer.token_to_id(END_THINK)

    async def run(self, request: thinker_pb2.GenerateRequest) -> Events:
        """The prompt where it came as messages, HiddenStates where wanted, then text, then GenerateDone. Counts are of
        the whole answer, tokens that were generated elsewhere included. Closing the generator, or cancelling its task,
        frees the engine.

        Raises NotFound for another model, BadInput and ContextTooLong for what is wrong with the request, Capacity
        for hidden states without room, TimedOut past the deadline, WorkerLost with the engine.
        """
        outcome = "failed"
        try:
            async with aclosing(self._run(request)) as events:
                async for event in events:
                    yield event
            outcome = "finished"
        except (BadInput, NotFound, Gone):
            outcome = "refused"  # what was asked is wrong, or is no longer there: no failure of this thinker's
            raise
        except TimeoutError:
            outcome = "timed_out"
            raise TimedOut("the request's deadline passed before its answer was complete") from None
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        finally:
            metrics.TURNS.labels(outcome).inc()

    async def _run(self, request: thinker_pb2.GenerateRequest) -> Events:
        begun_s = time.monotonic()
        deadline = Deadline(request.context.deadline_unix_ms)
        if request.model != self._checkpoint.card.name:
            raise NotFound(f"the model {request.model!r} is not served here", code="model_not_found", param="model")
        if request.messages:
            async with deadline():
                request.prompt_token_ids.extend(await self._rendered(request))
            yield thinker_pb2.GenerateResponse(prompt=thinker_pb2.Prompt(token_ids=request.prompt_token_ids))
        prompt, generated = list(request.prompt_token_ids), list(request.generated_token_ids)
        placed = self._prompts.check(prompt, generated, request.features)
        params = sampling_params(
            request.sampling, self._defaults, prompt_tokens=len(prompt), earlier_tokens=len(generated)
        )
        answer = GeneratedAnswer(
            self._table,
            thinking=self._thinks and begins_in_thought(prompt, self._table),
            stops=request.sampling.stop,
            min_tokens=request.sampling.min_tokens,
        )
        began_in_thought = answer.is_thinking
        done = self._taken_up(generated, answer, request)
        with ExitStack() as stack:
            expected = None
            if self._speaks and request.wants_hidden_states:
                spans = media_spans_of_user_turns(prompt, self._checkpoint.turn_tokens)
                if spans:
                    expected = stack.enter_context(self._receiver.expect(spans, self._engine.itemsize))
            if done is not None and expected is None:
                yield thinker_pb2.GenerateResponse(done=done)
                return
            if done is not None:  # only the hidden states are wanted again
                generated, params = [], SamplingParams(temperature=0, max_tokens=1, detokenize=False)
            elif request.HasField("structure"):
                async with deadline():
                    await self._structure(request, params, began_in_thought, answer)
            async with deadline():
                engine_input = await self._prompts.build(prompt, generated, placed, request.context.tenant)
            metrics.FEATURE_PULL.observe(time.monotonic() - begun_s)
            if expected is not None:
                params.extra_args = {**(params.extra_args or {}), **expected.extra_args}
            outputs = self._outputs(request.context, engine_input, params, deadline)
            async with aclosing(outputs):
                if done is not None and expected is not None:
                    await anext(outputs)
                    yield await self._hidden_states(expected, request.context.request_id, deadline)
                    yield thinker_pb2.GenerateResponse(done=done)
                    return
                async for event in self._answer(request, outputs, answer, expected, deadline, begun_s):
                    yield event

    async def _structure(
        self,
        request: thinker_pb2.GenerateRequest,
        params: SamplingParams,
        began_in_thought: bool,
        answer: GeneratedAnswer,
    ) -> None:
        """Add the structure to `params`. Raise BadInput, also for a grammar that does not compile."""
        check_structured(request.sampling)
        params.structured_outputs = structured_outputs(request.structure)
        await self._trials.check(params.structured_outputs, request.structure.path)
        written = list(request.generated_token_ids)
        if began_in_thought and self._end_think is not None:
            end = written.index(self._end_think) + 1 if self._end_think in written else len(written)
            written = written[end:]
        state: dict[str, int] = {STRUCTURED_TOKENS: len(written)}
        if answer.is_thinking and self._end_think is not None:
            state[END_OF_THOUGHT] = self._end_think
        params.extra_args = {**(params.extra_args or {}), **state}

    async def _rendered(self, request: thinker_pb2.GenerateRequest) -> list[int]:
        if request.prompt_token_ids or request.generated_token_ids or request.features:
            raise BadInput("messages come in place of token ids and features: send one of both", param="messages")
        return await self._renderer.token_ids(request.messages, request.tools_json)

    async def _answer(
        self,
        request: thinker_pb2.GenerateRequest,
        outputs: AsyncIterator[RequestOutput],
        answer: GeneratedAnswer,
        expected: Expected | None,
        deadline: Deadline,
        begun_s: float,
    ) -> Events:
        done = thinker_pb2.GenerateDone()
        last_s = None
        async for output in outputs:
            completion = output.outputs[0]
            if completion.finish_reason not in (None, "stop", "length"):
                raise WorkerLost("the thinker dropped this request", retry_after_s=1)
            now_s = time.monotonic()
            delta = answer.add(list(completion.token_ids), finished=completion.finish_reason is not None)
            ended = completion.finish_reason is not None or delta.stop_string is not None
            text = thinker_pb2.GeneratedText(
                token_ids=delta.token_ids,
                content_delta=delta.content,
                reasoning_delta=delta.reasoning,
                is_last=ended,
            )
            if last_s is None:
                done.first_token_ms = (now_s - begun_s) * 1000
                done.cached_tokens = min(output.num_cached_tokens or 0, len(request.prompt_token_ids))
                text.cached_tokens = done.cached_tokens
                metrics.FIRST_TOKEN.observe(now_s - begun_s)
                metrics.PROMPT_TOKENS.inc(len(request.prompt_token_ids))
                metrics.CACHED_TOKENS.inc(done.cached_tokens)
                if expected is not None:
                    yield await self._hidden_states(expected, request.context.request_id, deadline)
            else:
                metrics.TOKEN_INTERVAL.observe(now_s - last_s)
            last_s = now_s
            metrics.TOKENS.inc(len(delta.token_ids))
            if completion.logprobs:
                places = completion.logprobs[: len(delta.token_ids)]
                top = request.sampling.top_logprobs
                text.logprobs.extend(token_logprobs(delta.token_ids, places, self._table, top))
            yield thinker_pb2.GenerateResponse(text=text)
            if ended:
                done.finish_reason = (
                    _STOP if delta.stop_string is not None else _REASONS[completion.finish_reason or ""]
                )
                done.stop_string = delta.stop_string or ""
                by = completion.stop_reason
                if not done.stop_string and isinstance(by, int) and by in request.sampling.stop_token_ids:
                    done.stop_token_id = by
                break
        done.completion_tokens, done.reasoning_tokens = answer.tokens, answer.reasoning_tokens
        yield thinker_pb2.GenerateResponse(done=done)

    async def _outputs(
        self, context: common_pb2.RequestContext, prompt: EngineInput, params: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[RequestOutput]:
        """Yield the engine's outputs; raise TimeoutError past the deadline. Closing it aborts the request."""
        async with deadline():
            inside = await self._quarantine.enter(context.failed_engines)
        with inside:
            async with aclosing(self._engine.generate(context.request_id, prompt, params)) as outputs:
                while True:
                    try:
                        async with deadline():
                            output = await anext(outputs)
                    except StopAsyncIteration:
                        return
                    inside.close()
                    yield output

    async def _hidden_states(self, expected: Expected, turn: str, deadline: Deadline) -> thinker_pb2.GenerateResponse:
        async with deadline():
            hidden_states = await self._receiver.deliver(expected, turn, self._owner)
        return thinker_pb2.GenerateResponse(hidden_states=thinker_pb2.HiddenStates(hidden_states=hidden_states))

    def _taken_up(
        self, generated: Sequence[int], answer: GeneratedAnswer, request: thinker_pb2.GenerateRequest
    ) -> thinker_pb2.GenerateDone | None:
        """Add tokens from another worker to `answer`. Return the answer's end where they complete it."""
        if not generated:
            return None
        delta = answer.add(generated, finished=False)
        asked = request.sampling
        ends = {*asked.stop_token_ids, *(() if asked.ignore_eos else self._ends)}
        done = thinker_pb2.GenerateDone(
            completion_tokens=answer.tokens,
            reasoning_tokens=answer.reasoning_tokens,
            stop_string=delta.stop_string or "",
        )
        if delta.stop_string is not None or generated[-1] in ends:
            done.finish_reason = _STOP
            if generated[-1] in asked.stop_token_ids and not done.stop_string:
                done.stop_token_id = generated[-1]
        elif len(generated) >= longest_answer(asked, self._defaults, len(request.prompt_token_ids)):
            done.finish_reason = _LENGTH
        else:
            return None
        return done
