"""What an operator has chosen: when speech counts as derailed, and what is then done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from services.common.derailments import Derailment
from services.common.model_card import SAMPLE_RATE
from services.talker.checkpoint import SpeechConfig
from services.talker.derailment import CheckLimits

if TYPE_CHECKING:  # the engine runs without what settings need
    from services.talker.settings import TalkerSettings


@dataclass(frozen=True)
class CheckRules:
    """When speech has derailed, and how many times an answer is then spoken again before it is ended."""

    limits: CheckLimits
    retries: int = 0

    @classmethod
    def chosen(cls, settings: TalkerSettings, config: SpeechConfig) -> Self | None:
        """Return the rules of these settings for this checkpoint; None = nobody looks."""
        action, frames_per_s = settings.on_derailment, SAMPLE_RATE / config.samples_per_frame
        if action == "off" or (action == "auto" and config.has_random_weights):
            return None
        limits = CheckLimits(
            stall_frames=round(settings.stall_s * frames_per_s),
            repeat_frames=round(settings.repeat_s * frames_per_s),
            repeat_codes=settings.repeat_codes,
            silence_frames=round(settings.silence_s * frames_per_s),
            silence_rms=10 ** (settings.silence_dbfs / 20),
            endless_frames_per_token=settings.endless_frames_per_token,
            endless_frames=round(settings.endless_s * frames_per_s),
            cut_tokens=settings.cut_tokens,
        )
        return cls(limits, settings.derailment_retries if action == "again" else 0)

    def speaks_again(self, why: Derailment, *, spoken_again: int, is_sampled: bool) -> bool:
        """Whether speech that has derailed is spoken again; else it ends.

        Another seed changes nothing for a greedy request. Endless speech has nothing to go back to: all of it was sent,
        and the next frame would be too many as well.
        """
        return why is not Derailment.ENDLESS and is_sampled and spoken_again < self.retries
