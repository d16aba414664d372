"""vLLM's CPU worker with three fixes, for seeds and for pipelines.

1. A step that computes only part of a prompt still samples a token and discards it. vLLM 0.32.0 then rewinds the
   request's generator by its offset. A CPU generator has no offset, so this raises and the engine dies. Here such
   requests do not draw from their generator, and nothing is rewound.
2. A pipeline stage needs a buffer for the intermediate tensors of the stage before it. On a GPU the profile run
   allocates the buffer; on a CPU nothing does.
3. A request that resumes after another worker's tokens (DRAWS) starts with its generator advanced by their draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.distributed.parallel_state import get_pp_group
from vllm.v1.worker import cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from services.thinker.engine.patching import replace
from services.thinker.sampling import DRAWS


class SeededModelRunner(CPUModelRunner):
    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        if not get_pp_group().is_first_rank:
            model: Any = self.model
            self.intermediate_tensors = model.make_empty_intermediate_tensors(
                batch_size=self.max_num_tokens, dtype=self.dtype, device=self.device
            )

    def _update_states(self, scheduler_output: Any) -> Any:
        result = super()._update_states(scheduler_output)
        for new in scheduler_output.scheduled_new_reqs:
            draws = ((new.sampling_params and new.sampling_params.extra_args) or {}).get(DRAWS, 0)
            generator = self.requests[new.req_id].generator
            if draws and generator is not None:
                noise = torch.empty(self.model_config.get_vocab_size(), dtype=torch.float64)
                for _ in range(draws):
                    noise.exponential_(generator=generator)
        return result

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        generators = self.input_batch.generators
        unfinished = np.nonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])[0].tolist()
        held = {index: generators.pop(index) for index in unfinished if index in generators}
        try:
            return super().sample_tokens(*args, **kwargs)
        finally:
            generators.update(held)


class ThinkerWorker(CPUWorker):
    def init_device(self) -> None:
        replace(cpu_worker, "CPUModelRunner", SeededModelRunner, CPUWorker.init_device)  # the next line builds it
        super().init_device()
