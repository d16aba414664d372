"""What a key, a project or an organisation may be limited in, and how each limit counts."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

Span = Literal["minute", "day", "month", "open", "request"]
"""How a limit counts: units of any 60 seconds, of a day or month of UTC, of turns that are open, or of one request."""


class LimitKind(StrEnum):
    """The names of control.proto, in lower case without the prefix."""

    span: Span
    metric: str
    """The name in lua/ of what it counts."""
    unit: str
    """What it counts, for messages."""
    is_quota: bool

    def __new__(cls, name: str, span: Span, metric: str, unit: str) -> Self:
        # Attributes, not properties: each turn reads them of all its limits.
        kind = str.__new__(cls, name)
        kind._value_ = name
        kind.span, kind.metric, kind.unit = span, metric, unit
        kind.is_quota = span in ("day", "month")
        return kind

    REQUESTS_PER_MINUTE = "requests_per_minute", "minute", "requests", "requests"
    PROMPT_TOKENS_PER_MINUTE = "prompt_tokens_per_minute", "minute", "prompt_tokens", "prompt tokens"
    ANSWER_TOKENS_PER_MINUTE = "answer_tokens_per_minute", "minute", "answer_tokens", "answer tokens"
    AUDIO_IN_MS_PER_MINUTE = "audio_in_ms_per_minute", "minute", "audio_in_ms", "ms of audio in"
    AUDIO_OUT_MS_PER_MINUTE = "audio_out_ms_per_minute", "minute", "audio_out_ms", "ms of audio out"
    CONCURRENT_REQUESTS = "concurrent_requests", "open", "open_requests", "requests at a time"
    CONCURRENT_VOICES = "concurrent_voices", "open", "open_voices", "requests with speech at a time"
    CONCURRENT_SESSIONS = "concurrent_sessions", "open", "open_sessions", "sessions at a time"
    MEDIA_BYTES_PER_REQUEST = "media_bytes_per_request", "request", "media_bytes", "bytes of media"
    MEDIA_MS_PER_REQUEST = "media_ms_per_request", "request", "media_ms", "ms of audio and video"
    REQUESTS_PER_DAY = "requests_per_day", "day", "requests", "requests"
    REQUESTS_PER_MONTH = "requests_per_month", "month", "requests", "requests"
    TOKENS_PER_DAY = "tokens_per_day", "day", "tokens", "tokens"
    TOKENS_PER_MONTH = "tokens_per_month", "month", "tokens", "tokens"
    AUDIO_MS_PER_DAY = "audio_ms_per_day", "day", "audio_ms", "ms of audio"
    AUDIO_MS_PER_MONTH = "audio_ms_per_month", "month", "audio_ms", "ms of audio"
    MONEY_PER_DAY = "money_per_day", "day", "micros", "millionths of the currency"
    MONEY_PER_MONTH = "money_per_month", "month", "micros", "millionths of the currency"
