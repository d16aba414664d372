"""Lanes: on a GPU, what does not wait for another's result runs beside it, and the host waits for neither.

The codec gives a frame its samples while talker and predictor make the next one. On a CPU all runs where it is called.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Lane:
    """Work that runs in the order in which it is given. A thread enters one, and sends some of its work into others.

    stream, capture_stream and graph_pool are None on a CPU. Lanes run at the same time, so each has memory of its own:
    for its graphs, and for the libraries that keep a workspace for each stream that graphs are captured on.
    """

    def __init__(self, device: torch.device, *, goes_first: bool = False) -> None:
        """goes_first: where both lanes have work that a GPU could begin, this one's begins."""
        self._device = device
        self.stream: Any = None
        self.capture_stream: Any = None
        self.graph_pool: Any = None
        if device.type == "cuda":
            # A graph's kernels have the priority of the stream that they were captured on.
            self.stream, self.capture_stream = (torch.cuda.Stream(device, -int(goes_first)) for _ in range(2))
            self.graph_pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def entered(self) -> Generator[None]:
        """For a thread that works in this lane: all that the process has given the device before is done by then, and
        all that the thread has given it, once it leaves."""
        if self._device.type != "cuda":
            yield
            return
        torch.cuda.set_device(self._device)  # events and graphs are the current device's, wherever tensors lie
        torch.cuda.synchronize()
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            torch.cuda.synchronize()

    @contextmanager
    def after_this(self) -> Generator[None]:
        """In the block, work goes into this lane, and begins once all is done that the thread has given its own."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield


def to_device(values: Tensor | Sequence[Any] | int, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The same on the device, there for what the lane is given next: the host does not wait for the copy."""
    here = torch.as_tensor(values, dtype=dtype)
    if device.type == "cpu" or here.device.type != "cpu":
        return here.to(device)
    return here.contiguous().pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """A copy that is there once the lane has come so far; on a CPU, the tensor."""
    if tensor.device.type == "cpu":
        return tensor
    here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    here.copy_(tensor, non_blocking=True)
    return here
