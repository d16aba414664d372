"""vLLM's GPU worker with the thinker's model runner. Its tests need a GPU; the runner's run on a CPU."""

from __future__ import annotations

from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from services.thinker.engine.model_runner import ThinkerModelRunner


class GpuThinkerWorker(Worker):
    def _make_model_runner(self) -> GPUModelRunner:
        return ThinkerModelRunner(self.vllm_config, self.device)
