"""What the proof ran on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bench.machine import machine
from bench.talker_gpu import gpu


def describe(device: torch.device) -> Mapping[str, Any]:
    """Return versions and hardware. On a GPU, raise where torch does not see it."""
    return machine() | (gpu(device) if device.type == "cuda" else {})
