"""The thinker's settings: ANTIPHON_* variables, beside those that every worker reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from services.common.media_counts import MediaCountSettings


class ThinkerSettings(MediaCountSettings):
    """The defaults are the model's documents' for one GPU; where nothing is said, vLLM's.

    A zero where zero makes no sense means "decide from the machine or the model".
    """

    hang_after_s: float = Field(
        default=10.0,
        gt=0,
        description="a worker ends when a step takes so much longer than its longest, or its event loop stands still",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="auto = the checkpoint's on a GPU, float32 on a CPU"
    )
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs that share each layer")
    pipeline_parallel_size: int = Field(default=1, ge=1, description="groups of GPUs that share the layers out")
    nodes: int = Field(
        default=1,
        ge=1,
        validate_default=True,
        description="machines that share the model, each with as many of its GPUs",
    )
    node_rank: int = Field(default=0, ge=0, description="0 = the leader, which serves; the others follow it")
    master_address: str = Field(
        default="", validate_default=True, description="host of the leader; needed where nodes is not 1"
    )
    master_port: int = Field(
        default=29501,
        ge=1024,
        le=65533,
        description="of the leader: the first of three ports, for torch's store, its followers and their hidden states",
    )
    gpu_memory_utilization: float = Field(default=0.95, gt=0, le=1, description="part of each GPU's memory for vLLM")
    kv_cache_memory_bytes: int = Field(
        default=0, ge=0, description="0 = what gpu_memory_utilization leaves; on a CPU, twice the longest sequence"
    )
    block_size: int = Field(default=0, ge=0, description="tokens a KV block; 0 = vLLM's choice, 32 on a CPU")
    max_num_seqs: int = Field(default=0, ge=0, description="sequences in a batch; 0 = slots")
    max_num_batched_tokens: int = Field(
        default=0, ge=0, description="tokens a step; a media item must fit; 0 = max_model_len, so that every item does"
    )
    enforce_eager: bool | None = Field(default=None, description="no CUDA graphs; unset = only on a CPU")
    seed: int = Field(default=1234, description="seed of requests that give none")
    default_max_tokens: int = Field(
        default=16384,
        ge=1,
        description="max_tokens of requests that give none, where the model's length leaves so many",
    )

    feature_cache_bytes: int = Field(
        default=1 << 30, ge=0, description="memory for media features, so that the next turn does not fetch them again"
    )
    feature_timeout_s: float = Field(default=30.0, gt=0, description="longest fetch of one media item's features")
    hidden_states_bytes: int = Field(
        default=1 << 30, ge=0, description="memory for hidden states that talkers fetch, of all turns together"
    )
    hidden_states_hold_s: float = Field(
        default=900.0,
        gt=0,
        description="then the hidden states of a turn that nobody released are dropped; more than the gateways'"
        " request_timeout_s",
    )

    @field_validator("nodes")
    @classmethod
    def _share_evenly(cls, nodes: int, info: ValidationInfo) -> int:
        gpus = info.data.get("tensor_parallel_size", 1) * info.data.get("pipeline_parallel_size", 1)
        if gpus % nodes:
            raise ValueError(f"{gpus} GPUs (tensor_parallel_size × pipeline_parallel_size) do not divide by {nodes}")
        return nodes

    @field_validator("node_rank")
    @classmethod
    def _is_a_node(cls, rank: int, info: ValidationInfo) -> int:
        if rank >= (nodes := info.data.get("nodes", rank + 1)):
            raise ValueError(f"must be less than nodes, which is {nodes}")
        return rank

    @field_validator("master_address")
    @classmethod
    def _is_there_for_followers(cls, address: str, info: ValidationInfo) -> str:
        if not address and info.data.get("nodes", 1) > 1:
            raise ValueError("is needed when nodes is more than 1: the leader's host name")
        return address

    @property
    def followers_port(self) -> int:
        """Of the leader: where its followers join."""
        return self.master_port + 1

    @property
    def hidden_states_endpoint(self) -> str:
        """Return where another machine's GPUs send hidden states to; "" where the leader's own GPUs always have them.

        Each GPU that shares a layer has the layer's hidden states, so only a pipeline puts them on another machine.
        """
        piped = self.nodes > 1 and self.pipeline_parallel_size > 1
        return f"tcp://{self.master_address}:{self.master_port + 2}" if piped else ""
