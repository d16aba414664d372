"""Usage and the end of a choice in OpenAI's form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from services.gateway.turn.events import FinishReason, SpeechEnd, TurnDone, Usage


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's usage object, plus `video_tokens`. An audio token of the answer is one codec frame (80 ms)."""
    prompt = usage.prompt
    prompt_tokens = prompt.text_tokens + prompt.image_tokens + prompt.audio_tokens + prompt.video_tokens
    completion_tokens = usage.completion_text_tokens + usage.completion_audio_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {
            "text_tokens": prompt.text_tokens,
            "audio_tokens": prompt.audio_tokens,
            "image_tokens": prompt.image_tokens,
            "video_tokens": prompt.video_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "completion_tokens_details": {
            "text_tokens": usage.completion_text_tokens,
            "audio_tokens": usage.completion_audio_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
        },
    }


def is_cut(done: TurnDone) -> bool:
    """Whether a limit cut the text or the speech."""
    return done.finish_reason is FinishReason.LENGTH or done.speech_end is SpeechEnd.LENGTH


def ending(done: TurnDone, *, calls: int) -> dict[str, Any]:
    """Return the fields that say how a choice with so many tool calls ended.

    finish_reason is "length" where a limit cut the text or the speech. stop_reason, which is vLLM's, is the stop string
    or stop token that ended the text.
    """
    end: dict[str, Any] = {"finish_reason": "length" if is_cut(done) else "tool_calls" if calls else "stop"}
    if done.stopped_by is not None:
        end["stop_reason"] = done.stopped_by
    return end


def antiphon_fields(*choices: TurnDone) -> dict[str, Any]:
    """Return fields that name the limit of who asked that cut the answer, say how many messages were dropped, and
    whether the speech followed its text.

    Of several choices: the first limit, the first derailment, and how often their speech was spoken again in all.
    """
    fields = {
        "antiphon_limit": next((done.limit for done in choices if done.limit), ""),
        "antiphon_dropped_messages": choices[0].dropped_messages,
        "antiphon_derailment": next((done.derailment.value for done in choices if done.derailment is not None), ""),
        "antiphon_spoken_again": sum(done.spoken_again for done in choices),
    }
    return {name: value for name, value in fields.items() if value}


class UsageTally:
    """Sums the usage of a request's choices. The prompt counts once."""

    def __init__(self, choices: int) -> None:
        self._left = choices
        self._sum: Usage | None = None

    def add(self, usage: Usage) -> Usage | None:
        """Return the sum once all choices have ended."""
        self._left -= 1
        if self._sum is None:
            self._sum = usage
        else:
            self._sum = replace(
                self._sum,
                completion_text_tokens=self._sum.completion_text_tokens + usage.completion_text_tokens,
                completion_audio_tokens=self._sum.completion_audio_tokens + usage.completion_audio_tokens,
                reasoning_tokens=self._sum.reasoning_tokens + usage.reasoning_tokens,
            )
        return None if self._left else self._sum

    def add_all(self, usages: Iterable[Usage]) -> Usage:
        for usage in usages:
            self.add(usage)
        return self._sum or Usage()
