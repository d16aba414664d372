"""What the talker's process reads from its environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.common.settings import WorkerSettings


class TalkerSettings(WorkerSettings):
    device: str = Field(
        default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="where the models run: cpu, cuda, cuda:1"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(default="auto", description="auto = the checkpoint's own")
    slots: int = Field(default=0, ge=0, le=512, description="voices at once; 0 = as many as fit (on a CPU, at most 8)")
    kv_cache_memory_bytes: int = Field(
        default=0, ge=0, description="for all voices; 0 = what memory_fraction leaves of the GPU, 1 GiB on a CPU"
    )
    memory_fraction: float = Field(
        default=0.9, gt=0, le=1, description="part of the GPU's memory for this process; as vLLM's, it must be free"
    )
    batch_invariant: bool = Field(
        default=False,
        description="every step as large as it can be: in bfloat16 too, an answer does not depend on what shares it",
    )
    max_frames: int = Field(
        default=4095,
        ge=1,
        description="longest answer in codec frames (12.5 a second); transformers' 4096 talker tokens are 4095 frames",
    )
    max_buffered_frames: int = Field(
        default=25, ge=1, description="frames that wait for a slow client before its stream pauses"
    )
    latency_ms: int = Field(
        default=80, ge=0, description="made frames wait so long for the next ones, to be sent together; 0 = never"
    )
    text_timeout_s: float = Field(default=60.0, gt=0, description="longest wait for an answer's next tokens")
    fetch_timeout_s: float = Field(default=15.0, gt=0, description="longest pull of a prompt's hidden states")
