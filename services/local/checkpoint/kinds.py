"""The three released checkpoints, in small."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Which released checkpoint a tiny one stands for. The name that it is served under tells it, as the released do."""

    INSTRUCT = "instruct"
    THINKING = "thinking"
    CAPTIONER = "captioner"

    @property
    def folder_name(self) -> str:
        """Of the random checkpoint: the name of its folder, and that it is served under."""
        return f"Tiny-Qwen3-Omni-{self.capitalize()}"

    @property
    def trained_name(self) -> str:
        """Of the trained checkpoint: the name of its folder, and that it is served under."""
        return f"Small-World-Qwen3-Omni-{self.capitalize()}"

    @property
    def speaks(self) -> bool:
        """Whether it has a talker and code2wav; Thinking and Captioner were released without."""
        return self is Kind.INSTRUCT

    @property
    def seed(self) -> int:
        """Of the first few seeds, one whose greedy answers neither end at once nor go on for ever."""
        return 5 if self is Kind.THINKING else 0
