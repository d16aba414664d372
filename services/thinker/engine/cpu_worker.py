"""vLLM's CPU worker with the thinker's model runner.

1. A pipeline stage needs a buffer for the intermediate tensors of the stage before it. On a GPU the profile run
   allocates the buffer; on a CPU nothing does, so it is allocated here.
2. vLLM compiles one function for log probabilities when they are first asked for. On a CPU this needs a C++ compiler
   and many seconds, in which the engine answers nothing and is taken for hung. Here it is not compiled.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.parallel_state import get_pp_group
from vllm.v1.sample import sampler
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker import cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from services.thinker.engine.model_runner import ThinkerModelRunner
from services.thinker.engine.patching import replace


def count_at_least(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return, (rows), how many elements of each row of x (rows, elements) are not below the row's value (rows, 1)."""
    return (x >= values).sum(-1)


replace(
    sampler,
    "batched_count_greater_than",
    count_at_least,
    Sampler.gather_logprobs,
    Sampler.gather_specific_token_logprobs,
)


class CpuThinkerModelRunner(ThinkerModelRunner, CPUModelRunner):  # pyright: ignore[reportIncompatibleVariableOverride]
    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        if not get_pp_group().is_first_rank:
            model: Any = self.model
            self.intermediate_tensors = model.make_empty_intermediate_tensors(
                batch_size=self.max_num_tokens, dtype=self.dtype, device=self.device
            )


class CpuThinkerWorker(CPUWorker):
    def init_device(self) -> None:
        replace(cpu_worker, "CPUModelRunner", CpuThinkerModelRunner, CPUWorker.init_device)  # the next line builds it
        super().init_device()
