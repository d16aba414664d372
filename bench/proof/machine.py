"""The machine that the proof ran on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bench.machine import machine
from bench.talker_gpu import gpu


def describe(device: torch.device) -> Mapping[str, Any]:
    """Return versions and hardware. Raise if torch does not see the GPU that was asked for."""
    return machine() | (gpu(device) if device.type == "cuda" else {})
