"""Checks that loading takes no more memory than the weights, and reports what that leaves of a slice."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.proof.runner import WrongError
from services.common.gpu_memory import CONTEXT_BYTES, GIB, GpuMemory, cache_bytes
from services.common.talker_memory import WORKSPACE_BYTES
from services.talker.checkpoint import load_speech_models
from services.talker.memory import measured_memory
from tests.talker.released import SIZES, random_models, write_checkpoint

SLICES_GIB = {"1g.20gb": 17.6, "1g.18gb": 15.84}
LEAST_LEFT_GIB = 6.0
"""Of a slice, for streams."""


def load(device: torch.device, size: str) -> Mapping[str, Any]:
    """Write a checkpoint of random weights, one matrix per expert, and load it. Return peak and budgets."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-proof-"))
    try:
        dtype = torch.bfloat16
        written = random_models(SIZES[size], device, dtype)
        write_checkpoint(written, SIZES[size], folder)
        state = written.talker.state_dict()
        sums = {name: float(tensor.sum(dtype=torch.float32)) for name, tensor in state.items() if ".experts." in name}
        del written, state
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        models = load_speech_models(folder, device=str(device))
        loaded = models.talker.state_dict()
        same = all(float(loaded[name].sum(dtype=torch.float32)) == total for name, total in sums.items())
        figures: dict[str, Any] = {"weights_bytes": models.bytes, "experts_are_the_same": same}
        if device.type == "cuda":
            figures |= _memory(device)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not same:
        raise WrongError("the loaded experts are not the written ones", figures)
    if figures.get("peak_bytes", 0) > 1.05 * models.bytes:
        raise WrongError("loading took more than the weights and 5 %", figures)
    if size == "released" and min(figures.get("left_gib_of_a_slice", {"": LEAST_LEFT_GIB}).values()) < LEAST_LEFT_GIB:
        raise WrongError("a slice has no room for streams", figures)
    return figures


def _memory(device: torch.device) -> dict[str, Any]:
    peak = torch.cuda.max_memory_reserved(device)
    memory = measured_memory(device)
    left = {
        name: cache_bytes(GpuMemory(int(gib * GIB), CONTEXT_BYTES, memory.reserved), 0.9, WORKSPACE_BYTES) / GIB
        for name, gib in SLICES_GIB.items()
    }
    return {
        "peak_bytes": peak,
        "reserved_bytes": memory.reserved,
        "used_by_others_bytes": memory.used_by_others,
        "total_bytes": memory.total,
        "left_gib_of_a_slice": left,
    }
