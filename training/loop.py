"""The training loop that all stages share: it goes on from its last checkpoint and says how far it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.files import write_atomically

Losses = dict[str, Tensor]
"""Scalars by name; `loss` is the one that is minimised."""


@dataclass(frozen=True)
class Schedule:
    """steps: of the whole training. The rate rises for `warmup` steps, then falls as a cosine to a twentieth."""

    steps: int
    rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    save_every_s: float = 60.0
    say_every: int = 25

    def rate_at(self, step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return self.rate * min(1.0, (step + 1) / self.warmup) * (0.95 * cosine + 0.05)


def train(
    name: str,
    checkpoint: Path,
    model: nn.Module,
    schedule: Schedule,
    losses_at: Callable[[int], Losses],
    *,
    stop_after: int | None = None,
) -> int:
    """Train the model's parameters that need a gradient; return the step that was reached.

    losses_at(step) draws its batch from the step's number alone, and torch's generator is seeded with it: a training
    that was interrupted goes on as if it had not been. stop_after: end after so many steps of this call.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, schedule.rate, betas=schedule.betas, weight_decay=schedule.weight_decay)
    step = _resume(checkpoint, model, optimizer)
    last = min(schedule.steps, step + stop_after if stop_after is not None else schedule.steps)
    sums: dict[str, float] = {}
    counted, saved, began = 0, time.monotonic(), time.process_time()
    model.train()
    while step < last:
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(step)
        losses = losses_at(step)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, schedule.clip)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        counted += 1
        for part, value in losses.items():
            sums[part] = sums.get(part, 0.0) + value.item()
        if step % schedule.say_every == 0 or step == last:
            told = " ".join(f"{part} {value / counted:.4f}" for part, value in sums.items())
            cpu_s = (time.process_time() - began) / counted
            now = time.strftime("%H:%M:%S")
            print(f"{now} {name} {step}/{schedule.steps} {told} ({cpu_s:.2f} s of CPU a step)", flush=True)
            sums, counted, began = {}, 0, time.process_time()
        if time.monotonic() - saved > schedule.save_every_s or step == last:
            _save(checkpoint, model, optimizer, step)
            saved = time.monotonic()
    model.eval()
    return step


def load(checkpoint: Path, model: nn.Module) -> int:
    """Load a training's weights as they stand; return the step. Raises FileNotFoundError."""
    state = read_checkpoint(checkpoint)
    model.load_state_dict(state["model"])
    model.eval()
    return int(state["step"])


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Return `model`, `step` and maybe `optimizer` of a training; say how far it was. Raises FileNotFoundError."""
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    print(f"{checkpoint.name}: trained for {state['step']} steps", flush=True)
    return state


def _resume(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not checkpoint.is_file():
        return 0
    state = read_checkpoint(checkpoint)
    model.load_state_dict(state["model"])
    if "optimizer" in state:  # weights out of a checkpoint come without one
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _save(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    write_atomically(checkpoint, lambda path: torch.save(state, path))
