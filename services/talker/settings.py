"""The talker's settings: ANTIPHON_* variables, beside those that every worker reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.common.settings import WorkerSettings


class TalkerSettings(WorkerSettings):
    device: str = Field(
        default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="where the models run: cpu, cuda or cuda:1"
    )
    hang_after_s: float = Field(
        default=10.0,
        gt=0,
        description="a worker ends when a step takes so much longer than its longest, or its event loop stands still",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto = what the checkpoint's config names"
    )
    slots: int = Field(
        default=0, ge=0, le=512, description="streams at a time; 0 = as many as fit (on a CPU, at most 8)"
    )
    kv_cache_memory_bytes: int = Field(
        default=0, ge=0, description="for all streams; 0 = what the weights leave of memory_fraction, 1 GiB on a CPU"
    )
    memory_fraction: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="part of the GPU's memory for this process, as vLLM's; it must be free",
    )
    batch_invariant: bool = Field(
        default=False,
        description="run every step at its largest size: in bfloat16 too, an answer does not depend on its batch",
    )
    max_frames: int = Field(
        default=4095,
        ge=1,
        description="longest answer in codec frames, 12.5 a second; 4095 are transformers' 4096 talker tokens",
    )
    max_buffered_frames: int = Field(
        default=25, ge=1, description="frames buffered for a slow client before its stream pauses"
    )
    latency_ms: int = Field(
        default=80, ge=0, description="longest time that a frame waits to be sent together with the next ones; 0 = none"
    )
    on_derailment: Literal["auto", "off", "end", "again"] = Field(
        default="auto",
        description="where speech no longer follows its text: end it at the last good frame; speak again from there, "
        "with another seed; off = do not look; auto = end, and off for random weights, whose speech follows no text",
    )
    derailment_retries: int = Field(default=2, ge=1, le=8, description="times that an answer is spoken again")
    stall_s: float = Field(
        default=4.0, ge=0, description="derailed: a first code, or a cycle of them, repeats for so long; 0 = never"
    )
    repeat_s: float = Field(default=8.0, ge=0, description="derailed: few first codes for so long; 0 = never")
    repeat_codes: int = Field(default=6, ge=1, le=64, description="so many are few")
    silence_s: float = Field(default=5.0, ge=0, description="derailed: silence for so long; 0 = never")
    silence_dbfs: float = Field(default=-50.0, le=0, description="samples below this level are silence")
    endless_frames_per_token: float = Field(
        default=12.0, ge=0, description="derailed: more frames for a token of the whole text; 0 = never"
    )
    endless_s: float = Field(default=16.0, ge=0, description="speech of at most so long is never endless")
    cut_tokens: int = Field(
        default=16, ge=0, description="derailed: the talker ends with so many tokens not fed to it; 0 = never"
    )
    text_timeout_s: float = Field(default=60.0, gt=0, description="longest wait for the caller's next message")
    fetch_timeout_s: float = Field(default=15.0, gt=0, description="longest fetch of a prompt's hidden states")
