"""A read-only KV connector: after each step it sends the hidden states that requests asked for to the servicer.

A request asks with SamplingParams.extra_args = {HIDDEN_STATES: {"id": str, "spans": [[start, end), …]}}; spans are
prompt positions. What comes from the prefix cache is sent with the request's first step. Each hidden state is sent
once, also after a preemption. Frames on the socket: [id, JSON header, raw values]; header: start, end (prompt
positions), dtype.

Written against vLLM 0.32.0, whose connector API is experimental: the version is pinned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import zmq
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.v1.kv_cache_interface import HiddenStateCacheSpec

from services.thinker.hidden_states.positions import overlaps
from services.thinker.sampling import HIDDEN_STATES

if TYPE_CHECKING:
    from vllm.forward_context import ForwardContext
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request


ENDPOINT = "endpoint"
_LAYER = "hidden_states."


@dataclass
class HiddenStateSlice:
    """Hidden states to send after this step: prompt positions [start, end) and their slots in the paged cache."""

    id: str
    start: int
    end: int
    slots: list[int]


@dataclass
class StepSlices(KVConnectorMetadata):
    slices: list[HiddenStateSlice] = field(default_factory=list)


@dataclass
class _Tracked:
    id: str
    spans: list[tuple[int, int]]
    blocks: list[int]
    sent: int = 0  # prompt positions below this one are done with


def _place_of(kv_cache_config: KVCacheConfig, role: KVConnectorRole) -> tuple[int, str, int]:
    """Return the hidden states' cache group, their layer's name ("" in a process without it), and its block size.

    The layer stands alone in its group, or in the one group of all layers: by name it is found in both. In a pipeline
    only one stage's workers have it; the scheduler is told the names of the first stage alone, but all groups.
    """
    groups = list(enumerate(kv_cache_config.kv_cache_groups))
    named = [(index, name, group) for index, group in groups for name in group.layer_names if _LAYER in name]
    if len(named) > 1:
        raise RuntimeError(f"one cache layer {_LAYER}* was expected, not {[name for _, name, _ in named]}")
    if named:
        index, name, group = named[0]
        spec: Any = group.kv_cache_spec
        return index, name, getattr(spec, "kv_cache_specs", {}).get(name, spec).block_size
    if role == KVConnectorRole.WORKER:
        return 0, "", 0
    marked = [(index, group) for index, group in groups if isinstance(group.kv_cache_spec, HiddenStateCacheSpec)]
    found = marked or groups
    if len(found) != 1:
        raise RuntimeError(f"the group of the cache layer {_LAYER}* is not among the {len(groups)} groups")
    return found[0][0], "", found[0][1].kv_cache_spec.block_size


class HiddenStatesConnector(KVConnectorBase_V1, SupportsHMA):
    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._group, self._layer, self._block_size = _place_of(kv_cache_config, role)
        self._tracked: dict[str, _Tracked] = {}
        self._cache: torch.Tensor | None = None
        self._socket: zmq.Socket[bytes] | None = None

    @property
    def requires_kv_delivery(self) -> bool:
        return False

    # Scheduler side

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        return 0, False

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        pass

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> StepSlices:
        for request_id in scheduler_output.finished_req_ids:
            self._tracked.pop(request_id, None)
        step = StepSlices()
        scheduled = scheduler_output.num_scheduled_tokens
        for new in scheduler_output.scheduled_new_reqs:
            wanted = ((new.sampling_params and new.sampling_params.extra_args) or {}).get(HIDDEN_STATES)
            if wanted is None:
                continue
            spans = [(int(start), int(end)) for start, end in wanted["spans"]]
            tracked = _Tracked(wanted["id"], spans, list(new.block_ids[self._group]))
            self._tracked[new.req_id] = tracked
            self._take(step, new.req_id, tracked, new.num_computed_tokens + scheduled[new.req_id])
        cached = scheduler_output.scheduled_cached_reqs
        for index, request_id in enumerate(cached.req_ids):
            tracked = self._tracked.get(request_id)
            if tracked is None:
                continue
            new_blocks = cached.new_block_ids[index]
            if request_id in cached.resumed_req_ids:  # preempted and back: its block table starts afresh
                tracked.blocks = list(new_blocks[self._group]) if new_blocks else []
            elif new_blocks:
                tracked.blocks += new_blocks[self._group]
            self._take(step, request_id, tracked, cached.num_computed_tokens[index] + scheduled[request_id])
        return step

    def _take(self, step: StepSlices, request_id: str, tracked: _Tracked, end: int) -> None:
        """Add the wanted positions below `end` that were not sent yet; forget a request that has all it asked for."""
        size = self._block_size
        for first, last in overlaps(tracked.spans, tracked.sent, end):
            slots = [tracked.blocks[p // size] * size + p % size for p in range(first, last)]
            step.slices.append(HiddenStateSlice(tracked.id, first, last, slots))
        tracked.sent = max(tracked.sent, end)
        if tracked.sent >= tracked.spans[-1][1]:
            del self._tracked[request_id]

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return False, None

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return False, None

    # Worker side

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

        if not self._layer:  # another stage of the pipeline has it
            return
        cache = kv_caches[self._layer]  # [blocks, 1, block size, hidden]
        if cache.ndim != 4 or cache.shape[1:3] != (1, self._block_size):
            raise RuntimeError(f"the cache of {self._layer} has the shape {tuple(cache.shape)}")
        self._cache = cache
        if get_tensor_model_parallel_rank() == 0:  # every rank holds the same values
            config: Any = self._kv_transfer_config
            socket = zmq.Context.instance().socket(zmq.PUSH)
            # No limit here: the servicer admits a request only where its hidden states fit the byte budget.
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(config.kv_connector_extra_config[ENDPOINT])
            self._socket = socket

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        pass

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        pass

    def wait_for_save(self) -> None:
        """Runs after each step's forward pass, while the step's blocks still belong to its requests."""
        if self._socket is None or self._cache is None or not self.has_connector_metadata():
            return
        metadata = self._get_connector_metadata()
        if not isinstance(metadata, StepSlices):
            return
        for step_slice in metadata.slices:
            slots = torch.tensor(step_slice.slots, device=self._cache.device)
            values = self._cache[slots // self._block_size, 0, slots % self._block_size].cpu().contiguous()
            header = {
                "start": step_slice.start,
                "end": step_slice.end,
                "dtype": str(values.dtype).removeprefix("torch."),
            }
            payload = values.view(torch.uint8).numpy().tobytes()
            self._socket.send_multipart([step_slice.id.encode(), json.dumps(header).encode(), payload], copy=False)

    def shutdown(self) -> None:
        if self._socket is not None:
            self._socket.close()

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        return True  # ThinkerModelWithHiddenStates.forward writes the cache in plain Python: no full CUDA graph has it
