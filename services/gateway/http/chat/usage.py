"""Usage and finish reason in OpenAI's form."""

from __future__ import annotations

from typing import Any

from antiphon.v1 import gateway_pb2, talker_pb2, thinker_pb2


def usage_object(usage: gateway_pb2.Usage) -> dict[str, Any]:
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


def finish_reason(done: gateway_pb2.ConverseDone) -> str:
    """Return "length" where a limit cut the text or the speech, else "stop"."""
    cut = done.finish_reason == thinker_pb2.FINISH_REASON_LENGTH or done.speech_end == talker_pb2.SPEECH_END_LENGTH
    return "length" if cut else "stop"
