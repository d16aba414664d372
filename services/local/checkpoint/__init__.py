"""Tiny random checkpoints with Qwen3-Omni's real architecture, token names and rates; what they say means nothing."""

from services.local.checkpoint.cached import cached_checkpoint
from services.local.checkpoint.kinds import Kind

__all__ = ["Kind", "cached_checkpoint"]
