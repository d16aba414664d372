"""Codes that a test puts in place of those that the talker draws: a derailment on random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from services.talker.checkpoint import SpeechModels
from services.talker.conditioning import Conditioner
from services.talker.engine import SpeechEngine
from services.talker.step import InFlightStep, StepInput

# What is drawn for a frame; None = what the talker draws.
Script = Callable[[StepInput], Sequence[int] | None]


def inject(monkeypatch: pytest.MonkeyPatch, engine: SpeechEngine, models: SpeechModels, script: Script) -> None:
    """Let the engine draw what the script says; the codec and the next steps take these codes."""
    parts, conditioner = engine.speaker.parts, Conditioner(models)
    begin, draw = engine.speaker.begin, parts.draw_codes
    inputs: Sequence[StepInput] = ()

    def begun(of: Sequence[StepInput]) -> InFlightStep:
        nonlocal inputs
        inputs = of
        return begin(of)

    def drawn(hidden: torch.Tensor, slots: torch.Tensor, noise: torch.Tensor, *, width: int) -> torch.Tensor:
        codes = draw(hidden, slots, noise, width=width).clone()
        for row, each in enumerate(inputs):
            if (given := script(each)) is not None:
                codes[row] = torch.tensor(given)
                parts.code_embeds[each.slot] = conditioner.frame_embeds(codes[row : row + 1])[0]
        return codes

    monkeypatch.setattr(engine.speaker, "begin", begun)
    monkeypatch.setattr(parts, "draw_codes", drawn)
