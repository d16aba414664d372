"""Converts tensors to bytes and back: dense, row-major, little-endian."""

from __future__ import annotations

import math
import sys

import torch

from services.common.errors import BadInput

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int64": torch.int64}

if sys.byteorder != "little":
    raise ImportError("tensors travel little-endian; this machine is not")


def tensor_to_bytes(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a CPU or GPU tensor of any dtype, bfloat16 included."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def tensor_from_bytes(data: bytes | bytearray, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a CPU tensor: a new one, or in place where `data` can be written. Raise BadInput where dtype is unknown or
    the size does not fit the shape."""
    if dtype not in DTYPES:
        raise BadInput(f"unknown dtype {dtype!r}", param="dtype")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if len(data) != expected:
        raise BadInput(f"{len(data)} bytes do not fill shape {list(shape)} of {dtype} ({expected})", param="shape")
    if not data:
        return torch.empty(shape, dtype=DTYPES[dtype])
    return torch.frombuffer(bytearray(data) if isinstance(data, bytes) else data, dtype=DTYPES[dtype]).view(shape)
