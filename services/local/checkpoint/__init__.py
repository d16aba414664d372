"""Tiny checkpoints with Qwen3-Omni's real architecture, token names and rates.

`trained_checkpoint` gives one that answers in a small world, out of the tree. `cached_checkpoint` gives one of random
weights: what that says means nothing, but it reaches more of the code.
"""

from services.local.checkpoint.cached import cached_checkpoint
from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.trained import TrainedFilesMissingError, trained_checkpoint

__all__ = ["Kind", "TrainedFilesMissingError", "cached_checkpoint", "trained_checkpoint"]
