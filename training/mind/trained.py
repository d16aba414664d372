"""The thinker as far as its stages have trained it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.local.checkpoint.kinds import Kind
from training.mind.bank import load_towers
from training.mind.stage import load_into
from training.mind.thinker import Language

STAGES = {
    Kind.INSTRUCT: ("joint", "thinker-bank", "thinker-imagined"),
    Kind.THINKING: ("joint", "thinker-bank", "thinker-imagined"),
    Kind.CAPTIONER: ("captioner",),
}
"""Whose language model a kind has: the furthest stage that there is."""


def trained_thinker(kind: Kind, work: Path) -> Any:
    """Return the thinker of a kind, in evaluation mode. Raise FileNotFoundError where a stage has not been run.

    After stage "joint", Instruct's and Thinking's towers are that stage's; Captioner's stay as they were.
    """
    thinker = load_towers(work)
    stage = next((name for name in STAGES[kind] if (work / f"{name}.pt").exists()), STAGES[kind][-1])
    learned = {"thinker": thinker} if stage == "joint" else {"language": Language(thinker)}
    load_into(work / f"{stage}.pt", learned)
    return thinker.eval()
