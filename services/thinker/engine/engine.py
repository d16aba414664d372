"""The thinker's engine: starts, watches and ends vLLM's AsyncLLM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import psutil
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.inputs import EngineInput
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.utils.system_utils import kill_process_tree
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase

from services.common.errors import ENGINE_FAILED, MOVED, BadInput, Fault, Unavailable, WorkerLost
from services.thinker.engine.core_process import CoreProcess, started_as
from services.thinker.engine.patching import replace
from services.thinker.engine.step_time import StepTime

logger = logging.getLogger(__name__)

KILLED_S = 10.0
"""A process with a whole model ends so soon after SIGKILL, seconds."""


class Engine:
    """One AsyncLLM. Its core runs in a separate process; when that dies, `died` is set and every call fails."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._closing = False
        self.died = asyncio.Event()
        self.step_time = StepTime(self.max_batched_tokens)

    @classmethod
    async def start(
        cls, arguments: AsyncEngineArgs, stats: type[StatLoggerBase], core: CoreProcess | None = None
    ) -> Engine:
        """Load the model, off the event loop. `stats` logs each step of the scheduler; `core` is the process that loads
        the model, None = a new one."""
        with started_as(core):
            return cls(await asyncio.to_thread(AsyncLLM.from_engine_args, arguments, stat_loggers=[stats]))

    @property
    def max_batched_tokens(self) -> int:
        return self._llm.vllm_config.scheduler_config.max_num_batched_tokens

    @property
    def itemsize(self) -> int:
        """Bytes of one element of a hidden state."""
        dtype: Any = self._llm.model_config.dtype
        return dtype.itemsize

    @property
    def unfinished_requests(self) -> int:
        return self._llm.get_num_unfinished_requests()

    async def generate(
        self, request_id: str, prompt: EngineInput, sampling: SamplingParams
    ) -> AsyncGenerator[RequestOutput]:
        """Yield outputs as they arrive. Closing the iterator, or cancelling, aborts the request in the engine.

        Raise BadInput for a request that vLLM refuses, WorkerLost when the engine dies, Unavailable where it had died
        before it got the request.
        """
        if self.died.is_set():
            raise Unavailable("this thinker's engine is gone: go on with another", code=MOVED)
        try:
            with self.step_time.sequence(prompt) as sequence:
                async with aclosing(self._llm.generate(prompt, sampling, request_id)) as outputs:
                    async for output in outputs:
                        sequence.tokens += len(output.outputs[0].token_ids)
                        yield output
        except EngineDeadError:
            self.died.set()
            raise WorkerLost("the thinker's engine is gone", code=ENGINE_FAILED, retry_after_s=1) from None
        except (VLLMValidationError, VLLMClientError) as error:
            logger.warning("vLLM refused request %s: %s", request_id, error)
            raise BadInput("the request does not fit the model") from None
        except EngineGenerateError as error:
            if self._llm.errored:
                self.died.set()
                raise WorkerLost("the thinker's engine is gone", code=ENGINE_FAILED, retry_after_s=1) from None
            logger.exception("request %s failed in vLLM", request_id, exc_info=error)
            raise Fault("internal error") from None

    @property
    def longest_step_s(self) -> float:
        """How long a step with the requests in the engine may take, seconds."""
        return self.step_time.longest_s

    async def answer(self) -> None:
        """Return once the engine's core has answered: it does so between two steps."""
        try:
            with self.step_time.between_steps():
                await self._llm.is_sleeping()
        except EngineDeadError:
            self.died.set()
            await asyncio.Event().wait()  # a dead engine does not hang: `died` tells

    def abandon(self) -> None:
        """Kill the engine's processes, which may hang. Its calls then raise WorkerLost with ENGINE_FAILED."""
        for process in self._processes:
            _kill(process.pid)

    @property
    def _processes(self) -> list[Any]:
        manager: Any = self._llm.engine_core.resources.engine_manager
        return manager.processes

    async def watch(self) -> None:
        """Wait until a process of the engine dies, then set `died`. Runs as a task beside the service."""
        processes = self._processes
        loop = asyncio.get_running_loop()
        gone = [loop.create_future() for _ in processes]

        def mark(index: int) -> None:
            loop.remove_reader(processes[index].sentinel)
            if not gone[index].done():
                gone[index].set_result(None)

        for index, process in enumerate(processes):
            loop.add_reader(process.sentinel, mark, index)
        try:
            await asyncio.wait(gone, return_when=asyncio.FIRST_COMPLETED)
            if not self._closing:
                self.died.set()
        finally:
            for process in processes:
                loop.remove_reader(process.sentinel)

    async def close(self, timeout_s: float = 3.0) -> None:
        """End the engine's processes, after `timeout_s` with SIGKILL. They hold nothing that must be saved."""
        self._closing = True
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()
        processes = self._processes
        with suppress(psutil.NoSuchProcess):  # vLLM gives up where one that it kills ends meanwhile
            await asyncio.to_thread(self._llm.shutdown, timeout_s)
        for process in processes:
            if process.is_alive():
                _kill(process.pid)
            # A killed one ends a little later. Until then its files are in use, and stay where they are.
            await asyncio.to_thread(process.join, KILLED_S)
        await asyncio.sleep(0)  # so that vLLM's callback closes its sockets
        context: Any = self._llm.engine_core.resources.ctx
        context.destroy(linger=0)
        # AsyncLLM.__del__ calls shutdown again, when the interpreter is half torn down.
        replace(self._llm, "shutdown", _nothing, AsyncLLM.__del__)


def _kill(pid: int) -> None:
    """Kill a process and those below it."""
    while True:
        try:
            return kill_process_tree(pid)
        except psutil.NoSuchProcess:  # one below it ended while vLLM looked
            continue


def _nothing(timeout: float | None = None) -> None:
    pass
