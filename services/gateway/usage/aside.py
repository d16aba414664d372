"""What a turn sets aside for its prompt as it is opened, before the prompt is known: one call of Redis in place of two.

Redis sets it aside only where all limits have ample room (AMPLE in lua/operations.lua). What is too much goes back with
the first draw after that, or at the end. A prompt that is longer draws the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.turn.amounts import Amounts, sound_ms
from services.gateway.turn.prompt import PromptUsage
from services.gateway.turn.request import TurnRequest
from services.gateway.usage.grant import Grant
from services.gateway.usage.prices import Tariff
from services.gateway.usage.script import Steps

_BYTES_PER_TOKEN = 3
"""Most texts have more, so that most prompts fit."""
_OF_TEMPLATE = 8
"""Tokens that each prompt has beside its text."""
_OF_PROMPTS: Sequence[str] = ("prompt_tokens", "tokens")


@dataclass(slots=True)
class PromptAside:
    """Room for so many tokens of a prompt, and for the first `text_tokens` of its answer, where these are limited."""

    prompt_tokens: int
    prompt_picos: int
    text_tokens: int
    step: Steps
    """Both together."""

    def rest(self, prompt: Steps) -> Steps:
        """Return what `prompt` needs beyond this: less than nothing where it needs less."""
        beyond = {metric: prompt.units[metric] - self.prompt_tokens for metric in _OF_PROMPTS}
        return Steps({**prompt.units, **beyond}, prompt.picos - self.prompt_picos)


def tokens_of(usage: PromptUsage) -> int:
    return usage.text_tokens + usage.audio_tokens + usage.image_tokens + usage.video_tokens


def prompt_steps(usage: PromptUsage, tariff: Tariff, media_bytes: int = 0) -> Steps:
    """Return a prompt as the only step of a draw."""
    units = dict.fromkeys(_OF_PROMPTS, tokens_of(usage))
    audio_ms = sound_ms(usage.audio_tokens) if usage.audio_tokens else 0
    if audio_ms:
        units |= {"audio_in_ms": audio_ms, "audio_ms": audio_ms}
    if not tariff.prices:
        return Steps(units, 0)
    prompt = Amounts(
        prompt_text_tokens=usage.text_tokens,
        prompt_audio_tokens=usage.audio_tokens,
        prompt_image_tokens=usage.image_tokens,
        prompt_video_tokens=usage.video_tokens,
        audio_in_ms=audio_ms,
        media_bytes=media_bytes,
    )
    return Steps(units, tariff.picos(prompt))


def aside_for(request: TurnRequest, tariff: Tariff, text: Grant) -> PromptAside | None:
    """Return what the turn asks for; None = its prompt takes a while, and others may need the room meanwhile."""
    if not request.thinker_renders:
        return None
    tokens = request.intent.text_bytes // _BYTES_PER_TOKEN + _OF_TEMPLATE
    picos = tariff.picos(Amounts(prompt_text_tokens=tokens)) if tariff.prices else 0
    text_tokens = text.size if text.is_limited else 0
    units = {
        "prompt_tokens": tokens,
        "tokens": tokens + text_tokens,
        "answer_tokens": text_tokens,
    }
    return PromptAside(tokens, picos, text_tokens, Steps(units, picos + text_tokens * text.picos))
