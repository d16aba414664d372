"""vLLM's CPU worker with the thinker's model runner.

A pipeline stage needs a buffer for the intermediate tensors of the stage before it. On a GPU the profile run allocates
the buffer; on a CPU nothing does, so it is allocated here.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.parallel_state import get_pp_group
from vllm.v1.worker import cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from services.thinker.engine.model_runner import ThinkerModelRunner
from services.thinker.engine.patching import replace


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
