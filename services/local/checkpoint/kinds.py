"""The three released checkpoints, in small."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Which released checkpoint a tiny one stands for; the folder's name tells the kind, as the released names do."""

    INSTRUCT = "instruct"
    THINKING = "thinking"
    CAPTIONER = "captioner"

    @property
    def folder_name(self) -> str:
        """The checkpoint is served under this name."""
        return f"Tiny-Qwen3-Omni-{self.capitalize()}"

    @property
    def speaks(self) -> bool:
        """Whether it has a talker and code2wav; Thinking and Captioner were released without."""
        return self is Kind.INSTRUCT

    @property
    def seed(self) -> int:
        """Of the first few seeds, one whose greedy answers neither end at once nor go on for ever."""
        return 5 if self is Kind.THINKING else 0
