"""CUDA streams: on a GPU, independent work runs side by side, and the host waits for none of it.

The codec decodes a frame's audio while talker and predictor make the next frame. On a CPU everything runs where it is
called.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class CudaStream:
    """A CUDA stream: its work runs in the order in which it is launched. A thread activates one, and launches some of
    its work on others.

    stream, capture_stream and graph_pool are None on a CPU. Streams run at the same time, so each has memory of its
    own: for its graphs, and for the libraries that keep a workspace for each stream that graphs are captured on.
    """

    def __init__(self, device: torch.device, *, high_priority: bool = False) -> None:
        """high_priority: when two streams have work that the GPU could start, it starts this one's."""
        self._device = device
        self.stream: Any = None
        self.capture_stream: Any = None
        self.graph_pool: Any = None
        if device.type == "cuda":
            # A graph's kernels have the priority of the stream that they were captured on.
            self.stream, self.capture_stream = (torch.cuda.Stream(device, -int(high_priority)) for _ in range(2))
            self.graph_pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def activate(self) -> Generator[None]:
        """Make this the thread's current stream. The device is idle when the block begins and when it ends."""
        if self._device.type != "cuda":
            yield
            return
        torch.cuda.set_device(self._device)  # events and graphs belong to the current device, wherever tensors lie
        torch.cuda.synchronize()
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            torch.cuda.synchronize()

    @contextmanager
    def ordered_after_current(self) -> Generator[None]:
        """Launch the block's work on this stream, after all work that the thread has launched on its current one."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield


def to_device(values: Tensor | Sequence[Any] | int, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy values to the device, in order with the current stream's work; the host does not wait for the copy."""
    on_host = torch.as_tensor(values, dtype=dtype)
    if device.type == "cpu" or on_host.device.type != "cpu":
        return on_host.to(device)
    return on_host.contiguous().pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """Copy to the host; the copy is complete once the current stream has come so far. On a CPU, return the tensor."""
    if tensor.device.type == "cpu":
        return tensor
    on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    on_host.copy_(tensor, non_blocking=True)
    return on_host
