"""What the thinker's stages share: checks between stretches of training, and handing on what was learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from training.loop import Schedule, read_checkpoint, train

CHECK_EVERY = 250


def run_stage(
    path: Path,
    modules: Mapping[str, nn.Module] | nn.ModuleDict,
    schedule: Schedule,
    losses_at: Callable[[int], dict[str, Tensor]],
    check: Callable[[], str],
) -> None:
    """Train modules as one, into one file; say every so many steps what `check` finds. Go on from the file, if any.

    The losses are summed.
    """
    model = modules if isinstance(modules, nn.ModuleDict) else nn.ModuleDict(modules)

    def with_sum(step: int) -> dict[str, Tensor]:
        losses = losses_at(step)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    step = -1
    while step < schedule.steps:
        step = train(path.stem, path, model, schedule, with_sum, stop_after=CHECK_EVERY)
        print(f"{time.strftime('%H:%M:%S')} {path.stem} {step}: {check()}", flush=True)


def load_into(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Load what a stage has learned into modules, by the names that they had in it. Raise FileNotFoundError."""
    learned: dict[str, Tensor] = read_checkpoint(path)["model"]
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in learned.items() if k.startswith(prefix)})
