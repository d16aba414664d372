"""What all stages share: a loop that logs, saves often and goes on where it stopped."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0
CLIP = 1.0
"""Most length of a gradient."""


class Stage:
    """One training: the trained modules, their optimizer, and how far it has come, in one file.

    The schedule is a warm-up, then a cosine down to a thirtieth over `steps`. A file of an interrupted run is taken up.
    """

    def __init__(
        self, path: Path, modules: dict[str, nn.Module], *, steps: int, rate: float, warmup: int = 100
    ) -> None:
        self.path, self.modules, self.steps, self.rate, self.warmup = path, modules, steps, rate, warmup
        self.parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        decayed = [p for p in self.parameters if p.ndim > 1]
        plain = [p for p in self.parameters if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.03}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        self.step = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._take_up(torch.load(path, weights_only=False))

    def run(
        self, loss_of: Callable[[int], dict[str, Tensor]], check: Callable[[], str], check_every: int = 250
    ) -> None:
        """Train until `steps`. `loss_of(step)` returns losses by name, which are summed; `check` describes how well."""
        sums: dict[str, float] = {}
        began = saved = time.monotonic()
        since = self.step
        while self.step < self.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * self._factor()
            losses = loss_of(self.step)
            total = torch.stack(list(losses.values())).sum()
            total.backward()
            norm = nn.utils.clip_grad_norm_(self.parameters, CLIP)
            if torch.isfinite(norm):
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss.detach())
            if self.step % 50 == 0:
                shown = " ".join(f"{name} {value / 50:.4f}" for name, value in sums.items())
                pace = (time.monotonic() - began) / (self.step - since)
                logger.info("step %d/%d %s, %.2f s a step", self.step, self.steps, shown, pace)
                sums.clear()
            if self.step % check_every == 0 or self.step == self.steps:
                logger.info("step %d %s", self.step, check())
            if time.monotonic() - saved > SAVE_EVERY_S or self.step == self.steps:
                self.save()
                saved = time.monotonic()

    def save(self) -> None:
        """Write the file whole or not at all."""
        state = {name: module.state_dict() for name, module in self.modules.items()}
        scratch = self.path.with_suffix(".part")
        torch.save({"modules": state, "optimizer": self.optimizer.state_dict(), "step": self.step}, scratch)
        scratch.replace(self.path)

    def _factor(self) -> float:
        warm = min(1.0, (self.step + 1) / self.warmup)
        return warm * (1 / 30 + 29 / 30 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.steps))))

    def _take_up(self, saved: dict[str, Any]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(saved["modules"][name])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        logger.info("going on at step %d of %s", self.step, self.path)


def load_into(path: Path, modules: dict[str, nn.Module]) -> None:
    """Load what a stage has saved into modules of the same names."""
    saved = torch.load(path, weights_only=False)["modules"]
    for name, module in modules.items():
        module.load_state_dict(saved[name])


def start_log(threads: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(threads)


def mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
