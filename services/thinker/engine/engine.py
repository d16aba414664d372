"""The thinker's engine: starts, watches and ends vLLM's AsyncLLM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.inputs import EngineInput
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase

from services.common.errors import ENGINE_FAILED, BadInput, Fault, WorkerLost
from services.thinker.engine.core_process import CoreProcess, started_as
from services.thinker.engine.patching import replace

logger = logging.getLogger(__name__)


class Engine:
    """One AsyncLLM. Its core runs in a separate process; when that dies, `died` is set and every call fails."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._closing = False
        self.died = asyncio.Event()

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

        Raise BadInput for a request that vLLM refuses, WorkerLost when the engine dies.
        """
        try:
            async with aclosing(self._llm.generate(prompt, sampling, request_id)) as outputs:
                async for output in outputs:
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

    async def answer(self) -> None:
        """Return once the engine's core has answered: it does so between two steps."""
        try:
            await self._llm.is_sleeping()
        except EngineDeadError:
            self.died.set()
            await asyncio.Event().wait()  # a dead engine does not hang: `died` tells

    async def watch(self) -> None:
        """Wait until a process of the engine dies, then set `died`. Runs as a task beside the service."""
        manager: Any = self._llm.engine_core.resources.engine_manager
        processes: list[Any] = manager.processes
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
        await asyncio.to_thread(self._llm.shutdown, timeout_s)
        await asyncio.sleep(0)  # so that vLLM's callback closes its sockets
        context: Any = self._llm.engine_core.resources.ctx
        context.destroy(linger=0)
        # AsyncLLM.__del__ calls shutdown again, when the interpreter is half torn down.
        replace(self._llm, "shutdown", _nothing, AsyncLLM.__del__)


def _nothing(timeout: float | None = None) -> None:
    pass
