"""Builds vLLM's engine arguments for a thinker."""

from __future__ import annotations

from typing import Any

from vllm.config import KVTransferConfig, StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs

from antiphon.v1 import common_pb2
from services.common.media_counts import by_modality
from services.thinker.checkpoint import Checkpoint
from services.thinker.engine.environment import binds_threads
from services.thinker.hidden_states.connector import ENDPOINT, HiddenStatesConnector
from services.thinker.hidden_states.plugin import THINKER, THINKER_WITH_HIDDEN_STATES
from services.thinker.settings import ThinkerSettings

_CPU_BLOCK_SIZE = 32
_IN_THE_CORE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


def engine_arguments(
    settings: ThinkerSettings, checkpoint: Checkpoint, *, on_cpu: bool, hidden_states_endpoint: str
) -> AsyncEngineArgs:
    """Return the arguments: prefix caching and chunked prefill on, media items never split over steps.

    A step that ends inside an audio-in-video item gives silently wrong embeddings (vLLM 0.32.0). vLLM refuses to start
    where an item might not fit a step. A model that speaks also keeps hidden states.
    """
    max_model_len = checkpoint.card.max_model_len
    worker = "cpu_worker.CpuThinkerWorker" if on_cpu else "gpu_worker.GpuThinkerWorker"
    given: dict[str, Any] = {"worker_cls": f"services.thinker.engine.{worker}"}
    if settings.block_size or on_cpu:
        given["block_size"] = settings.block_size or _CPU_BLOCK_SIZE
    if settings.kv_cache_memory_bytes or on_cpu:
        given["kv_cache_memory_bytes"] = settings.kv_cache_memory_bytes or 2 * checkpoint.kv_bytes(max_model_len)
    if on_cpu:
        # In float64, vLLM's CPU sampler draws the same noise as torch.multinomial, so a seeded answer equals that of
        # transformers.
        given["use_fp64_gumbel"] = True
        if settings.tensor_parallel_size * settings.pipeline_parallel_size == 1 and not binds_threads():
            # A worker process beside the engine's core would start Python again and take as much memory again.
            given["distributed_executor_backend"] = _IN_THE_CORE
    if settings.nodes > 1:
        given |= {
            "nnodes": settings.nodes,
            "node_rank": settings.node_rank,
            "master_addr": settings.master_address,
            "master_port": settings.master_port,
            "distributed_executor_backend": "mp",
        }
    speaks = checkpoint.card.kind == common_pb2.MODEL_KIND_INSTRUCT
    if speaks:
        given["kv_transfer_config"] = KVTransferConfig(
            kv_connector=HiddenStatesConnector.__name__,
            kv_connector_module_path=HiddenStatesConnector.__module__,
            kv_role="kv_producer",
            kv_connector_extra_config={ENDPOINT: hidden_states_endpoint},
        )
    return AsyncEngineArgs(
        model=str(checkpoint.folder),
        hf_overrides={"architectures": [THINKER_WITH_HIDDEN_STATES if speaks else THINKER]},
        served_model_name=[checkpoint.card.name],
        dtype=("float32" if on_cpu else "auto") if settings.dtype == "auto" else settings.dtype,
        tensor_parallel_size=settings.tensor_parallel_size,
        pipeline_parallel_size=settings.pipeline_parallel_size,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        max_model_len=max_model_len,
        max_num_seqs=settings.max_num_seqs or settings.slots,
        max_num_batched_tokens=settings.max_num_batched_tokens or max_model_len,
        # The number of items takes no memory: vLLM sizes its encoder budget by the tokens of the largest item.
        limit_mm_per_prompt=by_modality(settings.max_items),  # type: ignore[arg-type]
        enforce_eager=on_cpu if settings.enforce_eager is None else settings.enforce_eager,
        seed=settings.seed,
        enable_prefix_caching=True,
        enable_chunked_prefill=True,
        disable_chunked_mm_input=True,
        mm_processor_cache_gb=0,
        # One for all requests: by default, the first request would choose it for those after it.
        structured_outputs_config=StructuredOutputsConfig(backend="xgrammar"),
        disable_log_stats=True,
        use_tqdm_on_load=False,
        enable_log_requests=False,
        **given,
    )
